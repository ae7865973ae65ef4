"""More ops of two or three operands that broadcast: quotients, powers, extrema, choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.errors import DTypeError
from ir.op import Example, Grads, Values
from ir.ops.pointwise import Broadcasting, common_shape, constant
from ir.ops.shape import sum_to
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder


@dataclass(frozen=True)
class Div(Broadcasting):
    """a / b."""

    name: ClassVar[str] = "div"
    formula: ClassVar[str] = "y = a/b"
    positive: ClassVar[bool] = True

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(arrays[0] / arrays[1]),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (_, divisor), (y,) = inputs, outputs
        da = upstream[0] / divisor
        db = -(da * y)
        return sum_to(b, da, inputs[0].shape), sum_to(b, db, divisor.shape)


@dataclass(frozen=True)
class Power(Broadcasting):
    """a to the power of b, NaN for a negative a and a b that is not whole.

    Where b is 0 the gradient in a is 0; where a is 0 the gradient in b is 0.
    """

    name: ClassVar[str] = "power"
    formula: ClassVar[str] = "y = a^b"
    positive: ClassVar[bool] = True

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(np.float_power(*arrays), arrays[0].dtype),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        from ir.ops.functions import Log

        (base, exponent), (y,), (g,) = inputs, outputs, upstream
        zero, one = constant(b, 0, y), constant(b, 1, y)
        less = b.apply(Where(), exponent, exponent - 1.0, one)
        slope = exponent * b.apply(Power(), base, less)
        da = g * b.apply(Where(), exponent, slope, zero)
        log = b.apply(Log(), b.apply(Where(), base, base, one))
        db = g * b.apply(Where(), base, y * log, zero)
        return sum_to(b, da, base.shape), sum_to(b, db, exponent.shape)


@dataclass(frozen=True)
class Maximum(Broadcasting):
    """The larger of a and b, NaN where either is. At a tie the gradient is that of a."""

    name: ClassVar[str] = "maximum"
    formula: ClassVar[str] = "y = a where a ≥ b else b"

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(np.maximum(*arrays)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        left, right = inputs
        first = b.apply(GreaterEqual(), left, right)
        return Where().grad(b, (first, left, right), outputs, upstream)[1:]


@dataclass(frozen=True)
class Minimum(Broadcasting):
    """The smaller of a and b, NaN where either is. At a tie the gradient is that of a."""

    name: ClassVar[str] = "minimum"
    formula: ClassVar[str] = "y = a where a ≤ b else b"

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(np.minimum(*arrays)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        left, right = inputs
        first = b.apply(GreaterEqual(), right, left)
        return Where().grad(b, (first, left, right), outputs, upstream)[1:]


@dataclass(frozen=True)
class Comparison(Broadcasting):
    """1 where the operands compare so, else 0, in their element type; never true of NaN."""

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return None, None


@dataclass(frozen=True)
class Greater(Comparison):
    """1 where a > b, else 0."""

    name: ClassVar[str] = "greater"
    formula: ClassVar[str] = "y = 1 where a > b else 0"

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(np.greater(*arrays), arrays[0].dtype),)


@dataclass(frozen=True)
class GreaterEqual(Comparison):
    """1 where a ≥ b, else 0."""

    name: ClassVar[str] = "greater_equal"
    formula: ClassVar[str] = "y = 1 where a ≥ b else 0"

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(np.greater_equal(*arrays), arrays[0].dtype),)


@dataclass(frozen=True)
class Equal(Comparison):
    """1 where a = b, else 0."""

    name: ClassVar[str] = "equal"
    formula: ClassVar[str] = "y = 1 where a = b else 0"

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(np.equal(*arrays), arrays[0].dtype),)


@dataclass(frozen=True)
class Where(Broadcasting):
    """a where c is not 0, else b; all broadcast. NaN is not 0.

    c is float; a and b are both of its element type, or both i64.
    """

    name: ClassVar[str] = "where"
    formula: ClassVar[str] = "y = a where c ≠ 0 else b"
    operands: ClassVar[tuple[str, ...]] = ("c", "a", "b")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        c, a, b = types
        fits = a.dtype is b.dtype and (a.dtype is c.dtype or not a.dtype.is_float)
        if not c.dtype.is_float or not fits:
            hint = "c must be float, a and b of its type or i64"
            raise DTypeError(f"{self.name}: c is {c}, a is {a} and b is {b}; {hint}")
        return (a.with_shape(*common_shape(self, types)),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        c, a, b = arrays
        return (np.where(c != 0, a, b),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (c, left, right), (g,) = inputs, upstream
        if not g.dtype.is_float:
            return None, None, None
        zero = constant(b, 0, g)
        da, db = b.apply(Where(), c, g, zero), b.apply(Where(), c, zero, g)
        return None, sum_to(b, da, left.shape), sum_to(b, db, right.shape)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        cases = (
            ("same shape", "f32[3, 5, 2, 2]", "f32[3, 5, 2, 2]", "f32[3, 5, 2, 2]"),
            ("channels", "f32[17, 1]", "f32[2, 17, 3]", "f32[2, 17, 3]"),
            ("all ways", "f32[3, 1, 4]", "f32[1, 5, 4]", "f32[3, 5, 1]"),
            ("scalar", "f32[2, 20]", "f32[2, 20]", "f32[]"),
            ("batch 0", "f32[0, 3]", "f32[1, 3]", "f32[3]"),
        )
        return tuple(Example.of(name, cls(), *types) for name, *types in cases)
