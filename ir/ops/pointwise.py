"""Ops on matching elements: their two kinds, and those that gradients are made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.dims import Dim
from ir.errors import ShapeError
from ir.op import Example, Grads, Op, Values, require_floats, require_number
from ir.ops.cast import Constant
from ir.ops.shape import Sum, broadcast, sum_to
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder, Value


@dataclass(frozen=True)
class Unary(Op):
    """A function of each element: x float of any shape → the same type. NaN stays NaN."""

    operands: ClassVar[tuple[str, ...]] = ("x",)
    positive: ClassVar[bool] = False  # examples stay above zero

    @abstractmethod
    def of(self, x: Array) -> Array:
        """The function of every element."""

    @abstractmethod
    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value | None:
        """g times the derivative at x, where the function is y; None means always zero."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_floats(self, *types)
        return types

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        return (np.asarray(self.of(x), x.dtype),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (self.derivative(b, inputs[0], outputs[0], upstream[0]),)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self

    @classmethod
    def attributes(cls) -> tuple[tuple[object, ...], ...]:
        """Values of the attributes for the examples."""
        return ((),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        chosen = cls.attributes()
        return tuple(
            Example.of(name, cls(*chosen[i % len(chosen)]), shape, positive=cls.positive)
            for i, (name, shape) in enumerate(SHAPES)
        )


def constant(b: Builder, number: float, like: Value) -> Value:
    """A number as a scalar of the element type of `like`."""
    return b.apply(Constant(number, like.dtype.value))


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
            hint = "b needs one entry per channel, [C]; b.bias also takes one per location, [C, *S]"
            raise ShapeError(f"{self.name}: x is {x}, b is {b}; {hint}")
        return (x,)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, b = arrays
        return (x + b.reshape(-1, *(1,) * (x.ndim - 2)),)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self if tuple(images) == (True, False) else None

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
class Relu(Unary):
    """max(x, 0); the derivative at 0 is 0."""

    name: ClassVar[str] = "relu"
    formula: ClassVar[str] = "y = max(x, 0)"

    def of(self, x: Array) -> Array:
        return np.asarray(np.maximum(x, 0))

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return b.apply(ReluGrad(), x, g)


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

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self if all(images) else None

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return None, b.apply(ReluGrad(), inputs[0], upstream[0])

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return tuple(Example.of(name, cls(), shape, shape) for name, shape in SHAPES)


@dataclass(frozen=True)
class Broadcasting(Op):
    """Operands of one element type, broadcast as in numpy; symbols match themselves or 1."""

    operands: ClassVar[tuple[str, ...]] = ("a", "b")
    positive: ClassVar[bool] = False  # examples stay above zero

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_floats(self, *types)
        return (types[0].with_shape(*common_shape(self, types)),)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        rank = max(type.rank for type in types)
        fits = (
            type.rank == rank if batched else type.rank < rank or type.shape[0] == 1
            for type, batched in zip(types, images, strict=True)
        )
        return self if all(fits) else None

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        cases = (
            ("same shape", "f32[3, 5, 2, 2]", "f32[3, 5, 2, 2]"),
            ("channel", "f32[2, 17, 3]", "f32[17, 1]"),
            ("both ways", "f32[3, 1, 4]", "f32[1, 5, 4]"),
            ("scalar", "f32[]", "f32[2, 3]"),
            ("example and channel", "f32[2, 20, 3, 2]", "f32[2, 20, 1, 1]"),
            ("ones", "f32[1, 1]", "f32[1]"),
            ("batch 0", "f32[0, 3]", "f32[1, 3]"),
        )
        return tuple(Example.of(name, cls(), *ab, positive=cls.positive) for name, *ab in cases)


def common_shape(op: Op, types: Sequence[TensorType]) -> tuple[Dim, ...]:
    """The shape that the operands of `op` broadcast to; ShapeError where they do not."""
    shape: tuple[Dim, ...] = ()
    for type in types:
        joined = broadcast(shape, type.shape)
        if joined is None:
            listed = " and ".join(map(str, types))
            raise ShapeError(f"{op.name}: {listed} do not broadcast; reshape one of them")
        shape = joined
    return shape


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
        return sum_to(b, g, left.shape), -sum_to(b, g, right.shape)


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
        return sum_to(b, g * right, left.shape), sum_to(b, g * left, right.shape)


@dataclass(frozen=True)
class Scale(Unary):
    """x times a constant; the factor is rounded to the element type of x."""

    factor: float

    name: ClassVar[str] = "scale"
    formula: ClassVar[str] = "y = factor·x"

    def validate(self) -> None:
        require_number(self, "factor")

    def of(self, x: Array) -> Array:
        return np.asarray(x * x.dtype.type(self.factor))

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return b.apply(self, g)

    @classmethod
    def attributes(cls) -> tuple[tuple[object, ...], ...]:
        return (2.0,), (-0.5,), (0.0,), (1e-3,), (3,)


@dataclass(frozen=True)
class Shift(Unary):
    """x plus a constant; the term is rounded to the element type of x."""

    term: float

    name: ClassVar[str] = "shift"
    formula: ClassVar[str] = "y = x + term"

    def validate(self) -> None:
        require_number(self, "term")

    def of(self, x: Array) -> Array:
        return np.asarray(x + x.dtype.type(self.term))

    def derivative(self, b: Builder, x: Value, y: Value, g: Value) -> Value:
        return g

    @classmethod
    def attributes(cls) -> tuple[tuple[object, ...], ...]:
        return (1.0,), (-0.5,), (0.0,), (3,)


SHAPES = (
    ("image", "f32[3, 5, 4, 3]"),
    ("vector", "f32[1, 17]"),
    ("1-D", "f32[1, 20, 3]"),
    ("scalar", "f32[]"),
    ("batch 0", "f32[0, 3, 2, 2]"),
)
