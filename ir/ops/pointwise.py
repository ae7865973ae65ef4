"""Ops on matching elements: bias, rectifier, sums, differences, products, scaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.dims import Dim
from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Grads, Op, Values, require_floats
from ir.ops.shape import Sum, sum_to
from ir.types import Array, TensorType, described

if TYPE_CHECKING:
    from ir.builder import Builder


@dataclass(frozen=True)
class Bias(Op):
    """One number added to each channel: x [N, C, *S], b [C] → [N, C, *S]."""

    name: ClassVar[str] = "bias"
    formula: ClassVar[str] = "y[n,c,a] = x[n,c,a] + b[c]"
    operands: ClassVar[tuple[str, ...]] = ("x", "b")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, b = types
        require_floats(self, x, b)
        if x.rank < 2 or b.shape != x.shape[1:2]:
            raise ShapeError(f"{self.name}: x is {x}, b is {b}; b needs one entry per channel")
        return (x,)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, b = arrays
        return (x + b.reshape(-1, *(1,) * (x.ndim - 2)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (g,) = upstream
        rest = tuple(axis for axis in range(g.type.rank) if axis != 1)
        return g, b.apply(Sum(rest), g)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("image", cls(), "f32[1, 20, 3, 5]", "f32[20]"),
            Example.of("vector", cls(), "f32[3, 17]", "f32[17]"),
            Example.of("1-D", cls(), "f32[2, 5, 7]", "f32[5]"),
            Example.of("3-D", cls(), "f32[1, 3, 2, 3, 2]", "f32[3]"),
            Example.of("batch 0", cls(), "f32[0, 3, 2, 2]", "f32[3]"),
        )


@dataclass(frozen=True)
class Relu(Op):
    """max(x, 0) of any shape; NaN propagates."""

    name: ClassVar[str] = "relu"
    formula: ClassVar[str] = "y = max(x, 0)"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_floats(self, *types)
        return types

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(np.maximum(arrays[0], 0)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (b.apply(ReluGrad(), inputs[0], upstream[0]),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(Example.of(name, cls(), shape) for name, shape in _SHAPES)


@dataclass(frozen=True)
class ReluGrad(Op):
    """Gradient of `Relu`: x, g of one shape → g where x > 0, else 0 (also at 0)."""

    name: ClassVar[str] = "relu_grad"
    formula: ClassVar[str] = "dx = g where x > 0 else 0"
    operands: ClassVar[tuple[str, ...]] = ("x", "g")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, g = types
        require_floats(self, x, g)
        if x != g:
            raise ShapeError(f"{self.name}: x is {x} and g is {g}; they must agree")
        return (x,)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, g = arrays
        return (np.where(x > 0, g, x.dtype.type(0)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return None, b.apply(ReluGrad(), inputs[0], upstream[0])

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(Example.of(name, cls(), shape, shape) for name, shape in _SHAPES)


@dataclass(frozen=True)
class Broadcasting(Op):
    """Two operands of one element type, broadcast as in numpy; symbols match themselves or 1."""

    operands: ClassVar[tuple[str, ...]] = ("a", "b")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        a, b = types
        require_floats(self, a, b)
        rank = max(a.rank, b.rank)
        left, right = ((1,) * (rank - type.rank) + type.shape for type in (a, b))
        pairs = tuple(zip(left, right, strict=True))
        if any(m != n and m != 1 and n != 1 for m, n in pairs):
            raise ShapeError(f"{self.name}: {a} and {b} do not broadcast; reshape one of them")
        shape: list[Dim] = [n if m == 1 else m for m, n in pairs]
        return (a.with_shape(*shape),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        cases = (
            ("same shape", "f32[3, 5, 2, 2]", "f32[3, 5, 2, 2]"),
            ("channel", "f32[2, 17, 3]", "f32[17, 1]"),
            ("both ways", "f32[3, 1, 4]", "f32[1, 5, 4]"),
            ("scalar", "f32[]", "f32[2, 3]"),
            ("ones", "f32[1, 1]", "f32[1]"),
            ("batch 0", "f32[0, 3]", "f32[1, 3]"),
        )
        return tuple(Example.of(name, cls(), a, b) for name, a, b in cases)


@dataclass(frozen=True)
class Add(Broadcasting):
    """a + b."""

    name: ClassVar[str] = "add"
    formula: ClassVar[str] = "y = a + b"

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(arrays[0] + arrays[1]),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (g,) = upstream
        return tuple(sum_to(b, g, value.shape) for value in inputs)


@dataclass(frozen=True)
class Sub(Broadcasting):
    """a - b."""

    name: ClassVar[str] = "sub"
    formula: ClassVar[str] = "y = a - b"

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(arrays[0] - arrays[1]),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (g,) = upstream
        left, right = inputs
        return sum_to(b, g, left.shape), b.apply(Scale(-1.0), sum_to(b, g, right.shape))


@dataclass(frozen=True)
class Mul(Broadcasting):
    """a · b, element by element."""

    name: ClassVar[str] = "mul"
    formula: ClassVar[str] = "y = a·b"

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(arrays[0] * arrays[1]),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (g,) = upstream
        left, right = inputs
        return (
            sum_to(b, b.apply(Mul(), g, right), left.shape),
            sum_to(b, b.apply(Mul(), g, left), right.shape),
        )


@dataclass(frozen=True)
class Scale(Op):
    """x times a constant; the factor is rounded to the element type of x."""

    factor: float

    name: ClassVar[str] = "scale"
    formula: ClassVar[str] = "y = factor·x"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        if isinstance(self.factor, bool) or not isinstance(self.factor, int | float):
            raise AttributeValueError(
                f"{self.name}: factor must be a number, not {described(self.factor)}"
            )
        object.__setattr__(self, "factor", float(self.factor))

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_floats(self, *types)
        return types

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        return (np.asarray(x * x.dtype.type(self.factor)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (b.apply(self, upstream[0]),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        factors = (2.0, -0.5, 0.0, 1e-3, 3)
        return tuple(
            Example.of(name, cls(factor), shape)
            for factor, (name, shape) in zip(factors, _SHAPES, strict=True)
        )


_SHAPES = (
    ("image", "f32[3, 5, 4, 3]"),
    ("vector", "f32[1, 17]"),
    ("1-D", "f32[1, 20, 3]"),
    ("scalar", "f32[]"),
    ("batch 0", "f32[0, 3, 2, 2]"),
)
