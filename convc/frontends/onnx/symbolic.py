"""Integers of shape arithmetic: numpy arrays, of extents (objects) where some are symbolic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convc.frontends.onnx.errors import GIVE_SHAPES, NodeError, UndecidedError
from ir.dims import Dim, Sym, divide
from ir.types import Array

MAX_TERMS = 64
LARGEST = 2**63 - 1


def extents(values: Sequence[Dim]) -> Array:
    """A list of extents as an array: of integers where all of them are."""
    array = np.empty(len(values), object)
    array[:] = values
    return settled(array)


def is_symbolic(array: Array) -> bool:
    """Whether some element is a symbolic extent."""
    return array.dtype == object


def settled(array: Array) -> Array:
    """An array as integers, if none of its elements is symbolic; NodeError where one is too large.

    Expressions may not grow without end.
    """
    if array.dtype != object:
        return array
    symbolic = False
    for value in array.flat:
        if isinstance(value, Sym):
            symbolic = True
            if len(value.terms) > MAX_TERMS:
                raise NodeError(f"a size of {len(value.terms)} terms is too long; {GIVE_SHAPES}")
        elif abs(value) > LARGEST:
            raise NodeError("a size is beyond the integers of 64 bits")
    return array if symbolic else array.astype(np.int64)


def objects(array: Array) -> Array:
    """Whole numbers as an array of Python integers, to compute with symbolic ones."""
    if array.dtype == object:
        return array
    if array.dtype.kind == "f":
        if not np.all(np.isfinite(array) & (array == np.floor(array))):
            raise undecided("a product with a fraction")
        array = array.astype(np.int64)
    return array.astype(object)


def apply(function: Callable[..., Any], *arrays: Array) -> Array:
    """A function of matching extents, broadcast."""
    result = np.frompyfunc(function, len(arrays), 1)(*map(objects, arrays))
    return np.asarray(result, object)


def undecided(what: str) -> UndecidedError:
    """The error for arithmetic that needs the value of a symbolic size."""
    return UndecidedError(f"{what} depends on the value of a symbolic size; {GIVE_SHAPES}")


def quotient(a: Dim, b: Dim) -> Dim:
    """a / b, rounded towards zero (sizes are not negative)."""
    if isinstance(b, Sym):
        exact = divide(a, b)
        if exact is None:
            raise undecided(f"({a}) / ({b})")
        return exact
    if b == 0:
        raise NodeError(f"({a}) / 0")
    if isinstance(a, Sym):
        if b < 0:
            raise undecided(f"({a}) / {b}")
        return a // b
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def ratio(a: Dim, b: Dim) -> Dim:
    """a / b, where nothing is left over."""
    exact = divide(a, b) if b != 0 else None
    if exact is None:
        raise undecided(f"({a}) / ({b})")
    return exact


def remainder(a: Dim, b: Dim) -> Dim:
    """a modulo b."""
    if isinstance(b, Sym):
        raise undecided(f"({a}) modulo ({b})")
    if b == 0:
        raise NodeError(f"({a}) modulo 0")
    return a - a // b * b if b > 0 or isinstance(a, int) else quotient(a, b)


def equal(a: Dim, b: Dim) -> bool:
    """Whether a = b, for sizes that are not negative."""
    difference = a - b
    if isinstance(difference, int):
        return difference == 0
    if (isinstance(a, int) and a < 0) or (isinstance(b, int) and b < 0):
        return False
    raise undecided(f"({a}) = ({b})")


def less(a: Dim, b: Dim) -> bool:
    """Whether a < b, for sizes that are not negative."""
    difference = a - b
    if isinstance(difference, int):
        return difference < 0
    if isinstance(a, int) and a < 0:
        return True
    if isinstance(b, int) and b <= 0:
        return False
    raise undecided(f"({a}) < ({b})")


def largest(a: Dim, b: Dim) -> Dim:
    """The larger of two sizes."""
    return b if less(a, b) else a


def smallest(a: Dim, b: Dim) -> Dim:
    """The smaller of two sizes."""
    return a if less(a, b) else b
