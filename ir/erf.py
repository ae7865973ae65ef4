"""The error function, which numpy lacks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ir.types import Array

_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: Any) -> Array:
    """The error function of every element, computed in float64 and rounded."""
    return np.asarray(_erf(x), np.result_type(x))
