"""Functions of arrays that numpy lacks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ir.types import Array

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # the odd number nearest to 2^64 over the golden ratio
FIRST, SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: Any) -> Array:
    """The error function of every element, computed in float64 and rounded."""
    return np.asarray(_erf(x), np.result_type(x))


def truncated(x: Any) -> Array:
    """Numbers as int64, rounded towards 0; beyond its range the nearest end, and NaN as 0."""
    if np.result_type(x).kind != "f":
        return np.asarray(x, np.int64)
    inside = (x >= -(2.0**63)) & (x < 2.0**63)
    whole = np.where(inside, x, 0).astype(np.int64)
    end = np.where(x > 0, np.iinfo(np.int64).max, np.iinfo(np.int64).min)
    return np.asarray(np.where(inside | np.isnan(x), whole, end))


def shifted_right(z: Any, bits: Any) -> Any:
    """int64 shifted towards the low end; zeros come in, also for the sign."""
    return (np.asarray(z).astype(np.uint64) >> np.uint64(bits)).astype(np.int64)


def mixed(z: Any) -> Any:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014), a bijection of int64."""
    z = (z ^ shifted_right(z, 30)) * np.int64(FIRST)
    z = (z ^ shifted_right(z, 27)) * np.int64(SECOND)
    return z ^ shifted_right(z, 31)
