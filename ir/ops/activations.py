"""Transfer functions made of elementary ones, in forms that neither overflow nor cancel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.errors import AttributeValueError
from ir.numeric import erf
from ir.op import require_number
from ir.ops.arithmetic import Equal, Where
from ir.ops.functions import Erf, Exp, Logistic, Square, Step, Tanh
from ir.ops.pointwise import Unary, constant
from ir.types import Array

if TYPE_CHECKING:
    from ir.builder import Builder, Value


@dataclass(frozen=True)
class Softplus(Unary):
    """A smooth rectifier."""

    name: ClassVar[str] = "softplus"
    formula: ClassVar[str] = "y = log(1 + exp x)"

    def of(self, x: Array) -> Array:
        return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return g * b.apply(Logistic(), x)


@dataclass(frozen=True)
class Silu(Unary):
    """x times its logistic sigmoid."""

    name: ClassVar[str] = "silu"
    formula: ClassVar[str] = "y = x / (1 + exp(-x))"

    def of(self, x: Array) -> Array:
        return np.asarray(x / (1 + np.exp(-x)))

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        s = b.apply(Logistic(), x)
        return g * (s + y * (1.0 - s))


@dataclass(frozen=True)
class Gelu(Unary):
    """x times the normal distribution's Φ(x); approximate "tanh" takes Φ by a hyperbolic tangent.

    Source: Hendrycks and Gimpel 2016.
    """

    approximate: str = "none"

    name: ClassVar[str] = "gelu"
    formula: ClassVar[str] = "y = x·(1 + erf(x/√2))/2, or x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2"

    def validate(self) -> None:
        if self.approximate not in ("none", "tanh"):
            given = f"approximate = {self.approximate!r}"
            raise AttributeValueError(f'{self.name}: {given} must be "none" or "tanh"')

    def of(self, x: Array) -> Array:
        if self.approximate == "none":
            return np.asarray(x * (1 + erf(x * x.dtype.type(math.sqrt(0.5)))) / 2)
        inner = ROOT * (x + CUBIC * x**3)
        return np.asarray(x * (1 + np.tanh(inner)) / 2)

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        square = b.apply(Square(), x)
        if self.approximate == "none":
            turned = b.apply(Erf(), x * math.sqrt(0.5))
            slope = b.apply(Exp(), -0.5 * square) * ROOT
        else:
            turned = b.apply(Tanh(), x * (ROOT * CUBIC * square + ROOT))
            rate = 3 * ROOT * CUBIC * square + ROOT
            slope = rate * (1.0 - b.apply(Square(), turned))
        return g * (0.5 * (turned + 1.0 + x * slope))

    @classmethod
    def attributes(cls) -> tuple[tuple[object, ...], ...]:
        return ("none",), ("tanh",)


ROOT, CUBIC = math.sqrt(2 / math.pi), 0.044715


@dataclass(frozen=True)
class Elu(Unary):
    """x above 0, an exponential that ends at -alpha below. The derivative at 0 is alpha."""

    alpha: float = 1.0

    name: ClassVar[str] = "elu"
    formula: ClassVar[str] = "y = x where x > 0 else alpha·(exp x - 1)"

    def validate(self) -> None:
        require_number(self, "alpha")

    def of(self, x: Array) -> Array:
        below = x.dtype.type(self.alpha) * np.expm1(np.minimum(x, 0))
        return np.where(x > 0, x, below)

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        below = g * (y + self.alpha)
        return b.apply(Where(), b.apply(Step(), x), g, below)

    @classmethod
    def attributes(cls) -> tuple[tuple[object, ...], ...]:
        return (1.0,), (0.5,), (2,)


@dataclass(frozen=True)
class LeakyRelu(Unary):
    """x above 0, slope·x from there down. The derivative at 0 is the slope."""

    slope: float = 0.01

    name: ClassVar[str] = "leaky_relu"
    formula: ClassVar[str] = "y = x where x > 0 else slope·x"

    def validate(self) -> None:
        require_number(self, "slope")

    def of(self, x: Array) -> Array:
        return np.where(x > 0, x, x.dtype.type(self.slope) * x)

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return b.apply(Where(), b.apply(Step(), x), g, self.slope * g)

    @classmethod
    def attributes(cls) -> tuple[tuple[object, ...], ...]:
        return (0.01,), (-0.5,), (0,)


@dataclass(frozen=True)
class Clip(Unary):
    """x, or the nearer bound where x lies outside of low ≤ x ≤ high; a bound may be infinite.

    The gradient passes where x is within the bounds or on one.
    """

    low: float
    high: float

    name: ClassVar[str] = "clip"
    formula: ClassVar[str] = "y = min(max(x, low), high)"

    def validate(self) -> None:
        require_number(self, "low")
        require_number(self, "high")
        if not self.low <= self.high:
            bounds = f"low = {self.low} and high = {self.high}"
            raise AttributeValueError(f"{self.name}: {bounds} must be in order")

    def of(self, x: Array) -> Array:
        return np.clip(x, x.dtype.type(self.low), x.dtype.type(self.high))

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return b.apply(Where(), b.apply(Equal(), x, y), g, constant(b, 0, g))

    @classmethod
    def attributes(cls) -> tuple[tuple[object, ...], ...]:
        return (-0.5, 0.5), (0.0, math.inf), (-math.inf, 1), (-1.0, 6.0)
