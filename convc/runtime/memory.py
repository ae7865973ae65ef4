"""The memory of compiled models: aligned for any vector, and given back when done with."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from convc.plan import ALIGNMENT

Bytes = npt.NDArray[np.uint8]


def aligned(nbytes: int) -> Bytes:
    """Uninitialised memory whose first byte is aligned for any vector."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes]


def address(array: npt.NDArray[Any]) -> int:
    """Where the first element lies.

    Read from the array object, as the macro ``PyArray_DATA`` does in every extension module, which
    fixes its place there; the array interface takes ten times as long to say so.
    """
    return ctypes.c_int64.from_address(id(array) + object.__basicsize__).value


def give_back() -> None:
    """Return freed memory to the system, where the C library keeps it otherwise (glibc).

    Once large arrays were freed, glibc takes later ones from its heap, where what lives longer
    holds up what is gone: a fifth of the memory of a compiled ResNet.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # musl has none
        trim(ctypes.c_size_t(0))
