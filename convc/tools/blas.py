"""Threads of OpenBLAS, with which numpy multiplies matrices."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

NAMES = (
    "scipy_openblas_{}_num_threads64_",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)
"""As numpy 2 calls its own, numpy 1, and distributions."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Products of matrices stay on the calling thread; nothing changes for another library.

    The products of a reference are small and many, and OpenBLAS wakes its threads for each: where
    processors are shared or virtual that takes up to a hundred times as long.
    """
    library = _library()
    found = [name for name in NAMES if hasattr(library, name.format("set"))]
    if not found:
        yield
        return
    get, put = (getattr(library, found[0].format(verb)) for verb in ("get", "set"))
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)


def _library() -> ctypes.CDLL | None:
    """What numpy's linear algebra is linked to: names are looked up in that too."""
    module = find_spec("numpy.linalg._umath_linalg")
    return ctypes.CDLL(module.origin) if module is not None and module.origin else None
