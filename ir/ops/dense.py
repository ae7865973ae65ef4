"""Products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.dims import Dim
from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Grads, Op, Values, require_floats
from ir.ops.shape import broadcast, sum_to
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder


@dataclass(frozen=True)
class MatMul(Op):
    """op(x) @ op(w), where op swaps the last two axes or not.

    [*B, M, P] and [*B, P, Q] → [*B, M, Q]. The axes in front are broadcast as in numpy; symbols
    match themselves or 1.
    """

    transpose_x: bool = False
    transpose_w: bool = False

    name: ClassVar[str] = "matmul"
    formula: ClassVar[str] = "y[…,i,j] = Σ_p op(x)[…,i,p]·op(w)[…,p,j]"
    operands: ClassVar[tuple[str, ...]] = ("x", "w")

    def validate(self) -> None:
        for value in (self.transpose_x, self.transpose_w):
            if not isinstance(value, bool):
                raise AttributeValueError(f"{self.name}: transpose = {value!r} must be a bool")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, w = types
        require_floats(self, x, w)
        if x.rank < 2 or w.rank < 2:
            hint = "need two axes at least; reshape vectors"
            raise ShapeError(f"{self.name}: operands {x} and {w} {hint}")
        rows, depth = _swapped(x.shape[-2:], self.transpose_x)
        depth_w, columns = _swapped(w.shape[-2:], self.transpose_w)
        if depth != depth_w:
            flags = f"transpose_x = {self.transpose_x}, transpose_w = {self.transpose_w}"
            raise ShapeError(f"{self.name}: {x} and {w} ({flags}) share {depth} != {depth_w}")
        batch = broadcast(x.shape[:-2], w.shape[:-2])
        if batch is None:
            hint = "do not broadcast; reshape one of them"
            raise ShapeError(f"{self.name}: the axes before the last two of {x} and {w} {hint}")
        return (x.with_shape(*batch, rows, columns),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, w = arrays
        left = np.swapaxes(x, -1, -2) if self.transpose_x else x
        return (left @ (np.swapaxes(w, -1, -2) if self.transpose_w else w),)

    def grad(self, b: Builder, inputs: Values, outputs: Values, upstream: Values) -> Grads:
        (x, w), (g,), product = inputs, upstream, type(self)
        if self.transpose_x:
            dx = b.apply(product(self.transpose_w, True), w, g)
        else:
            dx = b.apply(product(False, not self.transpose_w), g, w)
        if self.transpose_w:
            dw = b.apply(product(True, self.transpose_x), g, x)
        else:
            dw = b.apply(product(not self.transpose_x, False), x, g)
        return sum_to(b, dx, x.shape), sum_to(b, dw, w.shape)

    def flops(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
        return outputs[0].size * inputs[0].shape[-2 if self.transpose_x else -1] * 2

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("batches", cls(), "f32[3, 5, 4]", "f32[3, 4, 17]"),
            Example.of("one matrix for all", cls(), "f32[2, 3, 1, 5]", "f32[5, 20]"),
            Example.of("both ways", cls(), "f32[2, 1, 3, 4]", "f32[3, 4, 5]"),
            Example.of("transposed x", cls(True, False), "f32[2, 7, 3]", "f32[1, 7, 4]"),
            Example.of("transposed w", cls(False, True), "f32[3, 5]", "f32[2, 20, 5]"),
            Example.of("both transposed", cls(True, True), "f32[2, 5, 17]", "f32[2, 3, 5]"),
            Example.of("matrices", cls(), "f32[1, 17]", "f32[17, 1]"),
            Example.of("batch 0", cls(), "f32[0, 3, 2]", "f32[2, 3]"),
            Example.of("depth 0", cls(), "f32[2, 3, 0]", "f32[2, 0, 5]"),
        )


@dataclass(frozen=True)
class Dense(MatMul):
    """`MatMul` of two matrices: [M, P] and [P, Q] → [M, Q]."""

    name: ClassVar[str] = "dense"
    formula: ClassVar[str] = "y[i,j] = Σ_p op(x)[i,p]·op(w)[p,j]"

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, w = types
        require_floats(self, x, w)
        if x.rank != 2 or w.rank != 2:
            raise ShapeError(f"{self.name}: operands {x} and {w} must be matrices; flatten first")
        return super().infer(x, w)

    def for_image(self, types: Sequence[TensorType], images: Sequence[bool]) -> Op | None:
        return self if tuple(images) == (True, False) and not self.transpose_x else None

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


def _swapped(pair: tuple[Dim, ...], swap: bool) -> tuple[Dim, ...]:
    return pair[::-1] if swap else pair
