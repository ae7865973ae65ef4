"""Builder methods for elementwise ops."""

from __future__ import annotations

import math
import typing
from collections.abc import Sequence

from ir.build.core import Core, Number, Value, items
from ir.dims import Dim
from ir.errors import AttributeValueError
from ir.ops import activations, arithmetic, cast, functions, pointwise
from ir.types import DType, described

Operand: typing.TypeAlias = Value | float


class ElementwiseMethods(Core):
    """Functions of matching elements. Where a second operand may be a number, it is a constant."""

    def bias(self, x: Value, b: Value, name: str | None = None) -> Value:
        """x [N, C, *S] plus b: [C], one number per channel, or [C, *S], one per location.

        `tiled_bias` repeats a smaller one over the locations.
        """
        per_location = self._own(b).type.rank > 1 and b.shape == self._own(x).shape[1:]
        return self.apply(pointwise.Add() if per_location else pointwise.Bias(), x, b, name=name)

    def add(self, a: Operand, b: Operand, name: str | None = None) -> Value:
        """a + b, broadcast as in numpy."""
        return self.apply(pointwise.Add(), *self._operands(a, b), name=name)

    def sub(self, a: Operand, b: Operand, name: str | None = None) -> Value:
        """a - b, broadcast as in numpy."""
        return self.apply(pointwise.Sub(), *self._operands(a, b), name=name)

    def mul(self, a: Operand, b: Operand, name: str | None = None) -> Value:
        """a · b, broadcast as in numpy."""
        return self.apply(pointwise.Mul(), *self._operands(a, b), name=name)

    def div(self, a: Value, b: Value | float, name: str | None = None) -> Value:
        """a / b, broadcast as in numpy."""
        return self.apply(arithmetic.Div(), a, self._operand(b, a), name=name)

    def power(self, a: Value, b: Value | float, name: str | None = None) -> Value:
        """a to the power of b, broadcast as in numpy."""
        return self.apply(arithmetic.Power(), a, self._operand(b, a), name=name)

    def maximum(self, a: Value, b: Value | float, name: str | None = None) -> Value:
        """The larger of a and b, broadcast as in numpy; at a tie the gradient is that of a."""
        return self.apply(arithmetic.Maximum(), a, self._operand(b, a), name=name)

    def minimum(self, a: Value, b: Value | float, name: str | None = None) -> Value:
        """The smaller of a and b, broadcast as in numpy; at a tie the gradient is that of a."""
        return self.apply(arithmetic.Minimum(), a, self._operand(b, a), name=name)

    def greater(self, a: Value, b: Value | float, name: str | None = None) -> Value:
        """1 where a > b, else 0."""
        return self.apply(arithmetic.Greater(), a, self._operand(b, a), name=name)

    def greater_equal(self, a: Value, b: Value | float, name: str | None = None) -> Value:
        """1 where a ≥ b, else 0."""
        return self.apply(arithmetic.GreaterEqual(), a, self._operand(b, a), name=name)

    def equal(self, a: Value, b: Value | float, name: str | None = None) -> Value:
        """1 where a = b, else 0."""
        return self.apply(arithmetic.Equal(), a, self._operand(b, a), name=name)

    def where(self, c: Value, a: Value, b: Value | float, name: str | None = None) -> Value:
        """a where c is not 0, else b; all broadcast as in numpy."""
        return self.apply(arithmetic.Where(), c, a, self._operand(b, a), name=name)

    def scale(self, x: Value, factor: float, name: str | None = None) -> Value:
        """x times a constant."""
        return self.apply(pointwise.Scale(factor), x, name=name)

    def shift(self, x: Value, term: float, name: str | None = None) -> Value:
        """x plus a constant."""
        return self.apply(pointwise.Shift(term), x, name=name)

    def identity(self, x: Value, name: str | None = None) -> Value:
        """x itself, under another name."""
        return self.apply(functions.Identity(), x, name=name)

    def stop_gradient(self, x: Value, name: str | None = None) -> Value:
        """x itself, as a constant for all gradients: what it is made of is not trained by them."""
        return self.apply(functions.StopGradient(), x, name=name)

    def exp(self, x: Value, name: str | None = None) -> Value:
        """e to the power of x."""
        return self.apply(functions.Exp(), x, name=name)

    def log(self, x: Value, name: str | None = None) -> Value:
        """The natural logarithm."""
        return self.apply(functions.Log(), x, name=name)

    def sqrt(self, x: Value, name: str | None = None) -> Value:
        """The square root; its derivative at 0 is taken as 0."""
        return self.apply(functions.Sqrt(), x, name=name)

    def square(self, x: Value, name: str | None = None) -> Value:
        """x times x."""
        return self.apply(functions.Square(), x, name=name)

    def reciprocal(self, x: Value, name: str | None = None) -> Value:
        """1 divided by x."""
        return self.apply(functions.Reciprocal(), x, name=name)

    def abs(self, x: Value, name: str | None = None) -> Value:
        """The magnitude; its derivative at 0 is 0."""
        return self.apply(functions.Abs(), x, name=name)

    def sign(self, x: Value, name: str | None = None) -> Value:
        """-1, 0 or 1."""
        return self.apply(functions.Sign(), x, name=name)

    def step(self, x: Value, name: str | None = None) -> Value:
        """1 where x > 0, else 0."""
        return self.apply(functions.Step(), x, name=name)

    def floor(self, x: Value, name: str | None = None) -> Value:
        """The next whole number downwards."""
        return self.apply(functions.Floor(), x, name=name)

    def ceil(self, x: Value, name: str | None = None) -> Value:
        """The next whole number upwards."""
        return self.apply(functions.Ceil(), x, name=name)

    def round(self, x: Value, name: str | None = None) -> Value:
        """The nearest whole number, of two the even one."""
        return self.apply(functions.Round(), x, name=name)

    def relu(self, x: Value, name: str | None = None) -> Value:
        """max(x, 0)."""
        return self.apply(pointwise.Relu(), x, name=name)

    def tanh(self, x: Value, name: str | None = None) -> Value:
        """The hyperbolic tangent."""
        return self.apply(functions.Tanh(), x, name=name)

    def logistic(self, x: Value, name: str | None = None) -> Value:
        """The logistic sigmoid, 1 / (1 + exp(-x))."""
        return self.apply(functions.Logistic(), x, name=name)

    def erf(self, x: Value, name: str | None = None) -> Value:
        """The error function."""
        return self.apply(functions.Erf(), x, name=name)

    def softplus(self, x: Value, name: str | None = None) -> Value:
        """log(1 + exp x), without overflow."""
        return self.apply(activations.Softplus(), x, name=name)

    def silu(self, x: Value, name: str | None = None) -> Value:
        """x times its logistic sigmoid."""
        return self.apply(activations.Silu(), x, name=name)

    def gelu(self, x: Value, approximate: str = "none", name: str | None = None) -> Value:
        """x times the normal distribution's Φ(x); approximate is "none" or "tanh"."""
        return self.apply(activations.Gelu(approximate), x, name=name)

    def elu(self, x: Value, alpha: float = 1.0, name: str | None = None) -> Value:
        """x above 0, alpha·(exp x - 1) below."""
        return self.apply(activations.Elu(alpha), x, name=name)

    def leaky_relu(self, x: Value, slope: float = 0.01, name: str | None = None) -> Value:
        """x above 0, slope·x below."""
        return self.apply(activations.LeakyRelu(slope), x, name=name)

    def clip(
        self, x: Value, low: float = -math.inf, high: float = math.inf, name: str | None = None
    ) -> Value:
        """x, or the nearer bound where x lies outside of low ≤ x ≤ high."""
        return self.apply(activations.Clip(low, high), x, name=name)

    def constant(self, value: float, dtype: DType | str = "f32", name: str | None = None) -> Value:
        """A number that belongs to the formula → []; training does not change it."""
        return self.apply(cast.Constant(value, DType.of(dtype).value), name=name)

    def cast(self, x: Value, dtype: DType | str, name: str | None = None) -> Value:
        """The same numbers as "f32", "f64" or "i64" (rounded towards 0)."""
        return self.apply(cast.Cast(DType.of(dtype).value), x, name=name)

    def uniform(
        self, shape: Sequence[Dim], seed: Value, dtype: DType | str = "f32", name: str | None = None
    ) -> Value:
        """Random numbers in [0, 1) that depend on the seed, i64 [], alone."""
        chosen = cast.Uniform(items("shape", shape), DType.of(dtype).value)
        return self.apply(chosen, seed, name=name)

    def dropout(self, x: Value, rate: float, seed: Value, name: str | None = None) -> Value:
        """x with a random share `rate` of its elements 0 and the others scaled by 1/(1 - rate).

        The rate is rounded down to a multiple of 2^-24. Give every layer and every step a seed of
        its own, i64 [].
        """
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            given = f"rate = {described(rate)}"
            raise AttributeValueError(f"dropout: {given} must be a number from 0 up to less than 1")
        dropped = math.floor(rate * 2**24) / 2**24
        chance = self.uniform(self._own(x).shape, seed, x.dtype)
        return self.where(self.greater_equal(chance, dropped), x / (1 - dropped), 0.0, name=name)

    def _operands(self, a: Operand, b: Operand) -> tuple[Value, Value]:
        """Either as it is, or a number as a scalar like the other; two numbers are refused."""
        if isinstance(b, Value) and isinstance(a, Number):
            return self._operand(a, b), b
        like = self._own(typing.cast("Value", a))
        return like, self._operand(b, like)

    def _operand(self, value: Value | float, like: Value) -> Value:
        """A number as a scalar of the element type of `like`."""
        if not isinstance(value, Number):
            return value
        return self.constant(float(value), self._own(like).dtype)
