"""The matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ir.dims import Dim
from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Grads, Op, Values, require_floats
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder


@dataclass(frozen=True)
class Dense(Op):
    """op(x) @ op(w) of two matrices, where op transposes or not: [M, P] and [P, Q] → [M, Q]."""

    transpose_x: bool = False
    transpose_w: bool = False

    name: ClassVar[str] = "dense"
    formula: ClassVar[str] = "y[i,j] = Σ_p op(x)[i,p]·op(w)[p,j]"
    operands: ClassVar[tuple[str, ...]] = ("x", "w")

    def validate(self) -> None:
        for value in (self.transpose_x, self.transpose_w):
            if not isinstance(value, bool):
                raise AttributeValueError(f"{self.name}: transpose = {value!r} must be a bool")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, w = types
        require_floats(self, x, w)
        if x.rank != 2 or w.rank != 2:
            raise ShapeError(f"{self.name}: operands {x} and {w} must be matrices; flatten first")
        rows, depth = reversed(x.shape) if self.transpose_x else x.shape
        depth_w, columns = reversed(w.shape) if self.transpose_w else w.shape
        if depth != depth_w:
            flags = f"transpose_x = {self.transpose_x}, transpose_w = {self.transpose_w}"
            raise ShapeError(f"{self.name}: {x} and {w} ({flags}) share {depth} != {depth_w}")
        return (x.with_shape(rows, columns),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, w = arrays
        return ((x.T if self.transpose_x else x) @ (w.T if self.transpose_w else w),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (x, w), (g,) = inputs, upstream
        if self.transpose_x:
            dx = b.apply(Dense(self.transpose_w, True), w, g)
        else:
            dx = b.apply(Dense(False, not self.transpose_w), g, w)
        if self.transpose_w:
            dw = b.apply(Dense(True, self.transpose_x), g, x)
        else:
            dw = b.apply(Dense(not self.transpose_x, False), x, g)
        return dx, dw

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        depth = inputs[0].shape[0 if self.transpose_x else 1]
        return outputs[0].size * depth * 2

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("plain", cls(), "f32[3, 5]", "f32[5, 20]"),
            Example.of("transposed x", cls(True, False), "f32[17, 3]", "f32[17, 4]"),
            Example.of("transposed w", cls(False, True), "f32[1, 16]", "f32[3, 16]"),
            Example.of("both", cls(True, True), "f32[5, 7]", "f32[17, 5]"),
            Example.of("batch 0", cls(), "f32[0, 3]", "f32[3, 2]"),
            Example.of("depth 0", cls(), "f32[2, 0]", "f32[0, 3]"),
            Example.of("one by one", cls(), "f32[1, 1]", "f32[1, 1]"),
        )
