"""Integers of fewer than 64 bits: computed with in 64, so what would wrap around does not.

Casts do wrap around, and what is known at import is computed in its own type. Beyond that, users
are told of operators that could make numbers beyond the range of the type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from convc.frontends.onnx.call import House, Known, Live, Operand
from convc.frontends.onnx.tensors import numpy_type
from ir.types import DType

Kind: TypeAlias = "np.dtype[Any]"
GROWING = frozenset({"Add", "CumSum", "Gemm", "MatMul", "Mul", "Neg", "Pow",
    "ReduceL1", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Sub", "Sum"})  # fmt: skip
WIDE = frozenset({"ArgMax", "ArgMin", "Cast", "CastLike"})  # what they make is of another type


def integer_of(element: int) -> Kind | None:
    """The type of integers for an element type of ONNX, None for others and for int64."""
    return _narrow(numpy_type(element))


def typed(house: House, kind: str, made: Live, operands: Sequence[Operand | None]) -> Live:
    """A result of an operator, with the type that the model gives to its integers."""
    if made.integer is not None or made.value.dtype is not DType.INT64 or kind in WIDE:
        return made
    integer = _type_of(kind, operands)
    if integer is not None and kind in GROWING:
        range = "beyond its range do not wrap around"
        house.note(f"{integer} is computed as int64: results of {kind} {range}")
    return replace(made, integer=integer)


def _type_of(kind: str, operands: Sequence[Operand | None]) -> Kind | None:
    number = 1 if kind == "Where" else 0
    operand = operands[number] if number < len(operands) else None
    if operand is None:
        return None
    return _narrow(operand.array.dtype) if isinstance(operand, Known) else operand.integer


def may_wrap(x: Live, wanted: Kind) -> bool:
    """Whether a value may hold numbers beyond the range of a type of integers."""
    if x.truth:
        return False
    held = x.integer if x.integer is not None else x.value.dtype.numpy
    return not np.can_cast(held, wanted)


def _narrow(type: Kind) -> Kind | None:
    return type if type.kind in "iu" and type != np.int64 else None
