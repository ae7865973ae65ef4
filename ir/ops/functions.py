"""Elementary functions of each element. Their gradients are compositions of such functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.numeric import erf
from ir.ops.arithmetic import Where
from ir.ops.pointwise import Unary, constant
from ir.types import Array

if TYPE_CHECKING:
    from ir.builder import Builder, Value


@dataclass(frozen=True)
class Identity(Unary):
    """x itself, under another name."""

    name: ClassVar[str] = "identity"
    formula: ClassVar[str] = "y = x"

    def of(self, x: Array) -> Array:
        return x

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return g


@dataclass(frozen=True)
class StopGradient(Unary):
    """x itself, which counts as a constant wherever something is differentiated."""

    name: ClassVar[str] = "stop_gradient"
    formula: ClassVar[str] = "y = x, dx = 0"

    def of(self, x: Array) -> Array:
        return x

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> None:
        return None


@dataclass(frozen=True)
class Exp(Unary):
    """e to the power of x."""

    name: ClassVar[str] = "exp"
    formula: ClassVar[str] = "y = exp x"

    def of(self, x: Array) -> Array:
        return np.exp(x)

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return g * y


@dataclass(frozen=True)
class Log(Unary):
    """The natural logarithm: -∞ at 0, NaN below."""

    name: ClassVar[str] = "log"
    formula: ClassVar[str] = "y = log x"
    positive: ClassVar[bool] = True

    def of(self, x: Array) -> Array:
        return np.log(x)

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return g / x


@dataclass(frozen=True)
class Sqrt(Unary):
    """The square root, NaN below 0. Its derivative at 0 is taken as 0, so that norms have one."""

    name: ClassVar[str] = "sqrt"
    formula: ClassVar[str] = "y = √x"
    positive: ClassVar[bool] = True

    def of(self, x: Array) -> Array:
        return np.sqrt(x)

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        divisor = b.apply(Where(), y, y, constant(b, 1, y))  # never 0, also when differentiated
        return b.apply(Where(), y, 0.5 * g / divisor, constant(b, 0, y))


@dataclass(frozen=True)
class Square(Unary):
    """x times x."""

    name: ClassVar[str] = "square"
    formula: ClassVar[str] = "y = x²"

    def of(self, x: Array) -> Array:
        return np.square(x)

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return 2.0 * g * x


@dataclass(frozen=True)
class Reciprocal(Unary):
    """1 divided by x."""

    name: ClassVar[str] = "reciprocal"
    formula: ClassVar[str] = "y = 1/x"
    positive: ClassVar[bool] = True

    def of(self, x: Array) -> Array:
        return np.reciprocal(x)

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return -g * b.apply(Square(), y)


@dataclass(frozen=True)
class Abs(Unary):
    """The magnitude; the derivative at 0 is 0."""

    name: ClassVar[str] = "abs"
    formula: ClassVar[str] = "y = |x|"

    def of(self, x: Array) -> Array:
        return np.abs(x)

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return g * b.apply(Sign(), x)


@dataclass(frozen=True)
class Flat(Unary):
    """A function whose derivative is zero wherever it has one, and taken as zero elsewhere."""

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> None:
        return None


@dataclass(frozen=True)
class Sign(Flat):
    """-1, 0 or 1."""

    name: ClassVar[str] = "sign"
    formula: ClassVar[str] = "y = -1 where x < 0, 1 where x > 0, else 0"

    def of(self, x: Array) -> Array:
        return np.sign(x)


@dataclass(frozen=True)
class Step(Flat):
    """1 above 0, and 0 from there down."""

    name: ClassVar[str] = "step"
    formula: ClassVar[str] = "y = 1 where x > 0 else 0"

    def of(self, x: Array) -> Array:
        return np.asarray(np.heaviside(x, 0))


@dataclass(frozen=True)
class Floor(Flat):
    """The next whole number downwards."""

    name: ClassVar[str] = "floor"
    formula: ClassVar[str] = "y = ⌊x⌋"

    def of(self, x: Array) -> Array:
        return np.floor(x)


@dataclass(frozen=True)
class Ceil(Flat):
    """The next whole number upwards."""

    name: ClassVar[str] = "ceil"
    formula: ClassVar[str] = "y = ⌈x⌉"

    def of(self, x: Array) -> Array:
        return np.ceil(x)


@dataclass(frozen=True)
class Round(Flat):
    """The nearest whole number, of two the even one."""

    name: ClassVar[str] = "round"
    formula: ClassVar[str] = "y = the whole number nearest to x, ties to even"

    def of(self, x: Array) -> Array:
        return np.rint(x)


@dataclass(frozen=True)
class Tanh(Unary):
    """The hyperbolic tangent."""

    name: ClassVar[str] = "tanh"
    formula: ClassVar[str] = "y = tanh x"

    def of(self, x: Array) -> Array:
        return np.tanh(x)

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return g * (1.0 - b.apply(Square(), y))


@dataclass(frozen=True)
class Logistic(Unary):
    """The logistic sigmoid, between 0 and 1."""

    name: ClassVar[str] = "logistic"
    formula: ClassVar[str] = "y = 1 / (1 + exp(-x))"

    def of(self, x: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-x)))

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return g * (y * (1.0 - y))


@dataclass(frozen=True)
class Erf(Unary):
    """The error function."""

    name: ClassVar[str] = "erf"
    formula: ClassVar[str] = "y = 2/√π ∫_0^x exp(-t²) dt"

    def of(self, x: Array) -> Array:
        return erf(x)

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        slope = b.apply(Exp(), -b.apply(Square(), x))
        return g * (slope * (2 / math.sqrt(math.pi)))
