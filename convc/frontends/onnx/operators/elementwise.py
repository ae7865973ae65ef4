"""Arithmetic, comparisons, logic and conversions of matching elements.

What is boolean is a float, 1 or 0. Integers that are not known at import are computed with in
float64: exactly, as long as they are below 2^53.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

import ir
from convc.frontends.onnx.call import Call, Emit, Known, Live, Operand, Result
from convc.frontends.onnx.errors import NodeError
from convc.frontends.onnx.fold import cast as cast_known
from convc.frontends.onnx.narrow import integer_of, may_wrap
from convc.frontends.onnx.tensors import BOOL, NARROW, name_of, numpy_type, value_type
from ir.types import DType

Binary: TypeAlias = Callable[[ir.Builder, ir.Value, ir.Value], ir.Value]


def floats(n: Call, values: Sequence[ir.Value]) -> tuple[list[ir.Value], bool]:
    """Values of one float type; integers as float64, and whether they were."""
    whole = all(not value.dtype.is_float for value in values)
    return [n.b.cast(value, "f64") if whole else value for value in values], whole


def _unary(function: Callable[[ir.Builder, ir.Value], ir.Value]) -> Emit:
    def emit(n: Call) -> ir.Value:
        (x,), whole = floats(n, [n.x()])
        y = function(n.b, x)
        return n.b.cast(y, "i64") if whole else y

    return emit


def _binary(function: Binary, constant: Callable[[Call], ir.Value | None] | None = None) -> Emit:
    """An operator on two operands; `constant` is its form where one is a number, if it has one."""

    def emit(n: Call) -> ir.Value:
        short = constant(n) if constant else None
        return short if short is not None else _joined(n, function, [n.x(0), n.x(1)])

    return emit


def _joined(n: Call, function: Binary, values: Sequence[ir.Value]) -> ir.Value:
    made, whole = floats(n, values)
    y = reduce(lambda a, b: function(n.b, a, b), made)
    return n.b.cast(y, "i64") if whole else y


def _sides(n: Call) -> tuple[ir.Value | None, float, bool]:
    """The operand that is computed, the number that the other one is, and which comes first."""
    ranks = [len(n.shape(0)), len(n.shape(1))]
    for number in (1, 0):
        other = n.operand(1 - number)
        value = n.scalar(number, ranks[1 - number])
        if value is not None and isinstance(other, Live) and other.value.dtype.is_float:
            return other.value, value, number == 0
    return None, 0.0, False


def _add_number(n: Call) -> ir.Value | None:
    x, number, _ = _sides(n)
    return None if x is None else x + number


def _subtract_number(n: Call) -> ir.Value | None:
    x, number, first = _sides(n)
    if x is None:
        return None
    return x * -1.0 + number if first else x + -number


def _multiply_number(n: Call) -> ir.Value | None:
    x, number, _ = _sides(n)
    return None if x is None else x * number


def _divide_number(n: Call) -> ir.Value | None:
    """Only where the reciprocal of the number is exact."""
    x, number, first = _sides(n)
    if x is None or first or not math.isfinite(number) or math.frexp(number)[0] not in (0.5, -0.5):
        return None
    return x * (1 / number)


def _divide(n: Call) -> ir.Value:
    short = _divide_number(n)
    if short is not None:
        return short
    (a, b), whole = floats(n, [n.x(0), n.x(1)])
    return n.b.cast(n.b.div(a, b), "i64") if whole else n.b.div(a, b)


def _power(n: Call) -> ir.Value:
    """The result has the type of the base; a square is no power."""
    x = n.x(0)
    base = x if x.dtype.is_float else n.b.cast(x, "f64")
    if n.known(1) and n.constant(1, "the exponent").size == 1:
        single = n.constant(1, "the exponent")
        if single.ndim <= x.type.rank and single.reshape(-1)[0] == 2:
            y = n.b.square(base)
            return y if x.dtype.is_float else n.b.cast(y, "i64")
    exponent = n.x(1)
    if exponent.dtype is not base.dtype:
        exponent = n.b.cast(exponent, base.dtype)
    y = n.b.power(base, exponent)
    return y if x.dtype.is_float else n.b.cast(y, "i64")


def _modulo(n: Call) -> ir.Value:
    """The remainder with the sign of the divisor, or with fmod that of the dividend.

    It is that of the numbers as they are, without rounding, where the quotient is below 2^29.
    """
    if DType.FLOAT64 in (n.x(0).dtype, n.x(1).dtype):
        raise NodeError("remainders of float64 are not supported; cast to float32")
    dtype = n.x(0).dtype
    a, b = (n.b.cast(n.x(number), DType.FLOAT64) for number in (0, 1))
    ratio = a / b
    times = n.b.where(n.b.greater(ratio, 0.0), n.b.floor(ratio), n.b.ceil(ratio))
    y = n.b.where(times, a - times * b, a)
    if not n.attributes.flag("fmod"):
        y = n.b.where(n.b.greater(n.b.sign(y) * n.b.sign(b), -1.0), y, y + b)
    return n.b.cast(y, dtype)


def _many(function: Binary, finish: Callable[[ir.Value, int], ir.Value] | None = None) -> Emit:
    """An operator on any number of operands."""

    def emit(n: Call) -> ir.Value:
        if not n.count:
            raise NodeError("it needs one operand at least")
        y = _joined(n, function, [n.x(number) for number in range(n.count)])
        return finish(y, n.count) if finish else y

    return emit


def _compare(function: Binary, swapped: bool = False) -> Emit:
    def emit(n: Call) -> Live:
        (a, b), _ = floats(n, [n.x(0), n.x(1)])
        return Live(function(n.b, b, a) if swapped else function(n.b, a, b), truth=True)

    return emit


def _logic(function: Binary) -> Emit:
    def emit(n: Call) -> Live:
        truths = [_as_type(n, n.x(number), DType.FLOAT32) for number in (0, 1)]
        return Live(function(n.b, *truths), truth=True)

    return emit


def _not(n: Call) -> Live:
    return Live(1.0 - n.x(), truth=True)


def _exclusive(b: ir.Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.abs(x - y)


def _is_nan(n: Call) -> Live:
    x = n.x()
    return Live(1.0 - n.b.equal(x, x), truth=True)


def _is_infinite(n: Call) -> Live:
    x = n.x()
    found = [
        n.b.equal(x, sign * math.inf)
        for name, sign in (("detect_positive", 1), ("detect_negative", -1))
        if n.attributes.flag(name, True)
    ]
    return Live(reduce(n.b.maximum, found) if found else x * 0.0, truth=True)


def _as_type(n: Call, x: ir.Value, dtype: DType) -> ir.Value:
    return x if x.dtype is dtype else n.b.cast(x, dtype)


def _where(n: Call) -> Result:
    a, b = n.x(1), n.x(2)
    condition = _as_type(n, n.x(0), a.dtype if a.dtype.is_float else DType.FLOAT32)
    return Live(n.b.where(condition, a, b), truth=n.truth(1))


def _clip(n: Call) -> ir.Value:
    """Bounds by attributes up to opset 10, then by operands; where they cross, the upper one."""
    x = n.x()
    if n.opset < 11:
        bounds = n.attributes.number("min", -math.inf), n.attributes.number("max", math.inf)
        return n.b.clip(x, *bounds)
    low = n.scalar(1, x.type.rank) if n.has(1) else -math.inf
    high = n.scalar(2, x.type.rank) if n.has(2) else math.inf
    if x.dtype.is_float and low is not None and high is not None and low <= high:
        return x if (low, high) == (-math.inf, math.inf) else n.b.clip(x, low, high)
    (y, *limits), whole = floats(n, [x, *(n.x(i) for i in (1, 2) if n.has(i))])
    if n.has(1):
        y = n.b.maximum(y, limits.pop(0))
    if n.has(2):
        y = n.b.minimum(y, limits.pop(0))
    return n.b.cast(y, "i64") if whole else y


def _cast(n: Call) -> Result:
    return cast(n, n.operand(0), n.attributes.integer("to", 0))


def cast(n: Call, operand: Operand, element: int) -> Result:
    """An operand as another element type of ONNX."""
    if isinstance(operand, Known):
        return cast_known(operand.array, numpy_type(element))
    x = operand.value
    if element == BOOL:
        if operand.truth:
            return operand
        (y,), _ = floats(n, [x])
        return Live(1.0 - n.b.equal(y, 0.0), truth=True)
    if element in NARROW:
        n.house.note(f"{name_of(element)} is computed as float32")
    y = _as_type(n, x, value_type(element))
    integer = integer_of(element)
    if integer is not None and integer.itemsize < 8 and may_wrap(operand, integer):
        y = _wrapped(n, y, integer)
    return Live(y, integer=integer)


def _wrapped(n: Call, x: ir.Value, integer: np.dtype[Any]) -> ir.Value:
    """Integers modulo the range of a type of fewer than 64 bits."""
    count, least = 2.0 ** (8 * integer.itemsize), float(np.iinfo(integer).min)
    wide = n.b.cast(x, DType.FLOAT64)
    times = n.b.floor((wide + -least) * (1 / count))
    return n.b.cast(wide - times * count, DType.INT64)


def _cast_like(n: Call) -> Result:
    like = n.operand(1)
    if isinstance(like, Known) or like.truth:
        kind = np.dtype(bool) if isinstance(like, Live) else like.array.dtype
        wanted = {"b": BOOL, "f": 11 if kind.itemsize == 8 else 1}.get(kind.kind, 7)
    else:
        wanted = {DType.FLOAT32: 1, DType.FLOAT64: 11, DType.INT64: 7}[like.value.dtype]
    return cast(n, n.operand(0), wanted)


ELEMENTWISE: dict[str, Emit] = {
    "Abs": _unary(lambda b, x: b.abs(x)),
    "Neg": _unary(lambda b, x: x * -1.0),
    "Sign": _unary(lambda b, x: b.sign(x)),
    "Floor": _unary(lambda b, x: b.floor(x)),
    "Ceil": _unary(lambda b, x: b.ceil(x)),
    "Round": _unary(lambda b, x: b.round(x)),
    "Sqrt": _unary(lambda b, x: b.sqrt(x)),
    "Reciprocal": _unary(lambda b, x: b.reciprocal(x)),
    "Exp": _unary(lambda b, x: b.exp(x)),
    "Log": _unary(lambda b, x: b.log(x)),
    "Erf": _unary(lambda b, x: b.erf(x)),
    "Add": _binary(lambda b, x, y: b.add(x, y), _add_number),
    "Sub": _binary(lambda b, x, y: b.sub(x, y), _subtract_number),
    "Mul": _binary(lambda b, x, y: b.mul(x, y), _multiply_number),
    "Div": _divide,
    "Pow": _power,
    "Mod": _modulo,
    "Max": _many(lambda b, x, y: b.maximum(x, y)),
    "Min": _many(lambda b, x, y: b.minimum(x, y)),
    "Sum": _many(lambda b, x, y: b.add(x, y)),
    "Mean": _many(lambda b, x, y: b.add(x, y), lambda total, count: total * (1 / count)),
    "Equal": _compare(lambda b, x, y: b.equal(x, y)),
    "Greater": _compare(lambda b, x, y: b.greater(x, y)),
    "GreaterOrEqual": _compare(lambda b, x, y: b.greater_equal(x, y)),
    "Less": _compare(lambda b, x, y: b.greater(x, y), swapped=True),
    "LessOrEqual": _compare(lambda b, x, y: b.greater_equal(x, y), swapped=True),
    "And": _logic(lambda b, x, y: b.mul(x, y)),
    "Or": _logic(lambda b, x, y: b.maximum(x, y)),
    "Xor": _logic(_exclusive),
    "Not": _not,
    "IsNaN": _is_nan,
    "IsInf": _is_infinite,
    "Where": _where,
    "Clip": _clip,
    "Cast": _cast,
    "CastLike": _cast_like,
}
