"""Reductions besides the sum."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.errors import ShapeError
from ir.op import Example, Grads, Op, Values, require_floats
from ir.ops.composite import Composite
from ir.ops.index import ArgMax, ArgMin, Finding, TakeAlongGrad
from ir.ops.movement import Pad
from ir.ops.pointwise import Mul, Scale
from ir.ops.shape import Reduction, Reshape, Sum
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder, Value


@dataclass(frozen=True)
class Mean(Composite, Reduction):
    """The mean over some axes, which disappear from the shape; there must be elements there."""

    name: ClassVar[str] = "mean"
    formula: ClassVar[str] = "y = (Σ over axes of x) / (number of summands)"

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        results = super().infer(*types)
        require_elements(self, self.axes, types[0])
        return results

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(arrays[0].mean(axis=self.axes)),)

    def expand(self, b: Builder, operands: Values) -> Values:
        (x,) = operands
        count = prod(x.type.static_shape[axis] for axis in self.axes)
        return (b.apply(Scale(1 / count), b.apply(Sum(self.axes), x)),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("all", cls((0, 1)), "f32[3, 5]"),
            Example.of("global average", cls((2, 3)), "f32[2, 17, 3, 5]"),
            Example.of("last", cls((2,)), "f32[1, 3, 20]"),
            Example.of("none", cls(()), "f32[2, 3]"),
            Example.of("batch 0", cls((1,)), "f32[0, 5]"),
        )


@dataclass(frozen=True)
class Extreme(Reduction):
    """The largest or smallest element; a NaN wins. All of g goes to the first such element."""

    finding: ClassVar[type[Finding]]
    function: ClassVar[np.ufunc]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        results = super().infer(*types)
        require_elements(self, self.axes, types[0])
        return results

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(self.function.reduce(arrays[0], axis=self.axes)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (x,), (g,) = inputs, upstream
        rows, last = self.rows(b, x), g.type.rank
        index = b.apply(self.finding(last), rows)
        one = Reshape((*g.shape, 1))
        placed = TakeAlongGrad(last, rows.shape[last])
        dx = b.apply(placed, b.apply(one, g), b.apply(one, index))
        return (self.from_rows(b, dx, x.shape),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return _cases(cls)


@dataclass(frozen=True)
class ReduceMax(Extreme):
    """The maximum over some axes, which disappear from the shape; there must be elements there.

    NaN propagates; the gradient goes to the first maximum in row-major order.
    """

    name: ClassVar[str] = "reduce_max"
    formula: ClassVar[str] = "y = max over axes of x"
    finding: ClassVar[type[Finding]] = ArgMax
    function: ClassVar[np.ufunc] = np.maximum


@dataclass(frozen=True)
class ReduceMin(Extreme):
    """The minimum over some axes, which disappear from the shape; there must be elements there.

    NaN propagates; the gradient goes to the first minimum in row-major order.
    """

    name: ClassVar[str] = "reduce_min"
    formula: ClassVar[str] = "y = min over axes of x"
    finding: ClassVar[type[Finding]] = ArgMin
    function: ClassVar[np.ufunc] = np.minimum


@dataclass(frozen=True)
class ReduceProd(Reduction):
    """The product over some axes, which disappear from the shape."""

    name: ClassVar[str] = "reduce_prod"
    formula: ClassVar[str] = "y = Π over axes of x"

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        return (np.asarray(arrays[0].prod(axis=self.axes)),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (b.apply(ReduceProdGrad(self.axes), inputs[0], upstream[0]),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (*_cases(cls), Example.of("of nothing", cls((1,)), "f32[3, 0]"))


@dataclass(frozen=True)
class ReduceProdGrad(Composite, Reduction):
    """The gradient of `ReduceProd`: x, g → g times the product of the other elements of x.

    Nothing is divided by: an x of 0 is like any other.
    """

    name: ClassVar[str] = "reduce_prod_grad"
    formula: ClassVar[str] = "dx[i] = g·Π_{j ≠ i} x[j]"
    operands: ClassVar[tuple[str, ...]] = ("x", "g")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, g = types
        require_floats(self, x, g)
        if g != self.reduced(x):
            raise ShapeError(f"{self.name}: g is {g}, the product of {x} is {self.reduced(x)}")
        return (x,)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, g = arrays
        order = [axis for axis in range(x.ndim) if axis not in self.axes] + sorted(self.axes)
        turned = x.transpose(order)
        dx = np.zeros((g.size, prod(turned.shape[g.ndim :])), x.dtype)
        for i in range(dx.shape[1]):
            dx[:, i] = np.delete(turned.reshape(dx.shape), i, axis=1).prod(axis=1) * g.reshape(-1)
        return (dx.reshape(turned.shape).transpose(np.argsort(order)).copy(order="C"),)

    def expand(self, b: Builder, operands: Values) -> Values:
        x, g = operands
        rows = self.rows(b, x)
        before, after = (_products(b, rows, backwards) for backwards in (False, True))
        dx = b.apply(Mul(), b.apply(Mul(), before, after), b.apply(Reshape((*g.shape, 1)), g))
        return (self.from_rows(b, dx, x.shape),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        cases = (*ReduceProd.examples(),)
        return tuple(
            Example(case.name, cls(case.op.axes), (*case.inputs, *case.op.infer(*case.inputs)))
            for case in cases
            if isinstance(case.op, ReduceProd)
        )


def _products(b: Builder, rows: Value, backwards: bool) -> Value:
    """For each element of the last axis, the product of all before it; or after it.

    In rounds that double how many elements each product holds (Hillis and Steele 1986).
    """

    def shifted(value: Value, by: int) -> Value:
        pads = ((0, 0),) * (value.type.rank - 1) + (((-by, by) if backwards else (by, -by)),)
        return b.apply(Pad(pads, (0,) * value.type.rank, 1.0), value)

    total, reach = shifted(rows, 1), 1
    (count,) = rows.type.static_from(-1)
    while reach < count:
        total, reach = b.apply(Mul(), total, shifted(total, reach)), 2 * reach
    return total


def _cases(op: type[Reduction]) -> tuple[Example, ...]:
    return (
        Example.of("all", op((0, 1)), "f32[3, 5]"),
        Example.of("all but channels", op((0, 2, 3)), "f32[2, 17, 3, 4]"),
        Example.of("global", op((2, 3)), "f32[2, 20, 3, 5]"),
        Example.of("channels", op((1,)), "f32[1, 4, 3, 17]"),
        Example.of("last", op((2,)), "f32[1, 3, 20]"),
        Example.of("around", op((2, 0)), "f32[2, 3, 4]"),
        Example.of("none", op(()), "f32[2, 3]"),
        Example.of("batch 0", op((1,)), "f32[0, 5]"),
    )


def require_elements(op: Op, axes: tuple[int, ...], x: TensorType) -> None:
    """ShapeError where the axes to reduce hold nothing."""
    if any(x.shape[axis] == 0 for axis in axes):
        raise ShapeError(f"{op.name}: {x} has nothing on axes {axes}; give it one element")
