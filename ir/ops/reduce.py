"""Reductions besides the sum."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.errors import ShapeError
from ir.op import Example, Op, Values
from ir.ops.composite import Composite
from ir.ops.pointwise import Scale
from ir.ops.shape import Reduction, Sum
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder


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


def require_elements(op: Op, axes: tuple[int, ...], x: TensorType) -> None:
    """ShapeError where the axes to reduce hold nothing."""
    if any(x.shape[axis] == 0 for axis in axes):
        raise ShapeError(f"{op.name}: {x} has nothing on axes {axes}; give it one element")
