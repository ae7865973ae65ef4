"""Running sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.errors import AttributeValueError
from ir.op import Example, Grads, Op, Values, require_floats, require_integer
from ir.ops.shape import require_axes_of
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder


@dataclass(frozen=True)
class CumSum(Op):
    """Along an axis, the sum of x up to each element.

    `exclusive` leaves the element itself out; `reverse` sums from the end.
    """

    axis: int
    exclusive: bool = False
    reverse: bool = False

    name: ClassVar[str] = "cumsum"
    formula: ClassVar[str] = "y[a, i, b] = Σ_{j ≤ i} x[a, j, b]"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        require_integer(self, "axis", self.axis, 0)
        for value in (self.exclusive, self.reverse):
            if not isinstance(value, bool):
                raise AttributeValueError(f"{self.name}: exclusive, reverse = {value!r}: a bool")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require_floats(self, *types)
        require_axes_of(self, (self.axis,), types[0])
        return types

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        x = np.flip(x, self.axis) if self.reverse else x
        if self.exclusive and x.shape[self.axis]:
            first = np.zeros_like(np.take(x, [0], self.axis))
            x = np.concatenate([first, np.delete(x, -1, self.axis)], self.axis)
        y = np.cumsum(x, self.axis)
        return (np.flip(y, self.axis).copy(order="C") if self.reverse else y,)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        return (b.apply(CumSum(self.axis, self.exclusive, not self.reverse), upstream[0]),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("rows", cls(1), "f32[3, 20]"),
            Example.of("columns", cls(0), "f32[5, 17]"),
            Example.of("exclusive", cls(1, True), "f32[2, 7, 3]"),
            Example.of("reverse", cls(2, False, True), "f32[1, 3, 5]"),
            Example.of("both", cls(0, True, True), "f32[4, 20]"),
            Example.of("one", cls(1, True), "f32[3, 1]"),
            Example.of("batch 0", cls(0), "f32[0, 3]"),
            Example.of("nothing before nothing", cls(1, True), "f32[2, 0]"),
        )
