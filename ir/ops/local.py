"""Locally connected layers: windows as in a convolution, but a kernel of their own each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.errors import ShapeError
from ir.op import Example, Values, require_floats
from ir.ops.composite import Composite
from ir.ops.conv import ConvAttributes, ConvGeometry, at_tap
from ir.ops.dense import MatMul
from ir.ops.movement import Concat, Pad, Slice
from ir.ops.shape import Reshape, Transpose
from ir.ops.window import pad_spatial
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder, Value


@dataclass(frozen=True)
class LocalConv(ConvAttributes, Composite):
    """Unshared convolution: x [N, C, *S], w [K, *out, C/groups, *k] → [N, K, *out].

    Each output cell has a kernel of its own, so the size of the input is fixed by w. Goodfellow
    et al. 2016, eq 9.9.
    """

    name: ClassVar[str] = "local_conv"
    formula: ClassVar[str] = "y[n,i,j] = Σ_l Σ_m x~[n,l, j·s + m·d - lo]·w[i,j,l,m]"
    operands: ClassVar[tuple[str, ...]] = ("x", "w")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, w = types
        require_floats(self, x, w)
        axes = len(self.stride)
        self.check_rank("x", x, "[N, C, *S]", axes + 2)
        self.check_rank("w", w, "[K, *out, C/groups, *k]", 2 * axes + 2)
        self.check_groups("input", x.shape[1])
        self.check_groups("output", w.shape[0])
        if x.shape[1] != w.shape[axes + 1] * self.groups:
            per = f"kernels {w} read {w.shape[axes + 1]} in each of {self.groups} groups"
            raise ShapeError(f"{self.name}: x is {x} with {x.shape[1]} channels, but {per}")
        check_own_kernels(self, x, w)
        return (x.with_shape(x.shape[0], *w.shape[: axes + 1]),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, w = arrays
        (type,) = self.infer(TensorType.of(x), TensorType.of(w))
        n, k, *out = type.static_shape
        cells, axes = math.prod(out), len(out)
        padded = pad_spatial(x, self.pads)
        y = np.zeros((n, self.groups, k // self.groups, cells), x.dtype)
        for m, seen in self.taps(w.shape[axes + 2 :], out):
            own = w[at_tap(m)].reshape(self.groups, k // self.groups, cells, -1)
            y += np.einsum("ngcj,gkjc->ngkj", self.by_group(padded[seen]), own)
        return (y.reshape(n, k, *out),)

    def expand(self, b: Builder, operands: Values) -> Values:
        x, w = operands
        (type,) = self.infer(x.type, w.type)
        n, (k, *out) = type.shape[0], type.static_from(1)
        cells, per_group = math.prod(out), k // self.groups
        windows = patches(b, self, x, w.type.static_shape[len(out) + 2 :], out)
        read = windows.type.static_from(1)[0] // self.groups
        seen = b.apply(Reshape((n, self.groups, read, cells)), windows)
        own = b.apply(Reshape((self.groups, per_group, cells, read)), w)
        left = b.apply(Transpose((1, 3, 0, 2)), seen)
        right = b.apply(Transpose((0, 2, 3, 1)), own)
        y = b.apply(Transpose((2, 0, 3, 1)), b.apply(MatMul(), left, right))
        return (b.apply(Reshape((n, k, *out)), y),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        def case(
            name: str, x: str, w: str, stride: Sequence[int], pads: object, dilation: Sequence[int],
            groups: int = 1,
        ) -> Example:  # fmt: skip
            op = cls(tuple(stride), pads, tuple(dilation), groups)  # type: ignore[arg-type]
            return Example.of(name, op, f"f32[{x}]", f"f32[{w}]")

        no = (0, 0)
        return (
            case("plain", "1, 3, 5, 4", "17, 3, 3, 3, 3, 2", (1, 1), (no, no), (1, 1)),
            case("batch", "3, 2, 4, 3", "5, 2, 2, 2, 3, 2", (1, 1), (no, no), (1, 1)),
            case("strided, padded", "2, 1, 4, 4", "2, 2, 2, 1, 3, 2", (2, 2), ((1, 1), (0, 1)),
                 (1, 1)),
            case("dilated", "1, 2, 7", "3, 3, 2, 3", (1,), (no,), (2,)),
            case("groups", "2, 4, 3, 3", "6, 2, 2, 2, 2, 2", (1, 1), (no, no), (1, 1), 2),
            case("crop", "1, 2, 5", "2, 3, 2, 2", (1,), ((-2, 1),), (1,)),
            case("one by one", "1, 1, 1, 1", "1, 1, 1, 1, 1, 1", (1, 1), (no, no), (1, 1)),
            case("3-D", "1, 2, 3, 2, 3", "3, 2, 1, 2, 2, 2, 2, 2", (1, 1, 1), (no, no, no),
                 (1, 1, 1)),
            case("batch 0", "0, 2, 4", "3, 3, 2, 2", (1,), (no,), (1,)),
        )  # fmt: skip


def check_own_kernels(op: ConvGeometry, x: TensorType, w: TensorType) -> None:
    """ShapeError unless w [·, *out, ·, *k] or [·, *out, *k] has a kernel for each output of x."""
    axes = len(op.stride)
    kernel, given = w.shape[w.rank - axes :], w.shape[1 : axes + 1]
    out = op.output_sizes(x.shape[2:], kernel)
    if out != given:
        made = f"x is {x}, from which kernels of {kernel} make {out}"
        raise ShapeError(f"{op.name}: {made}, but w is {w} with kernels for {given}")


def patches(
    b: Builder, op: ConvGeometry, x: Value, kernel: Sequence[int], out: Sequence[int]
) -> Value:
    """What the windows of x [N, C, *S] read, offset by offset: [N, C·offsets, cells of out]."""
    n, channels = x.shape[:2]
    if any(map(any, op.pads)):
        x = b.apply(Pad(((0, 0), (0, 0), *op.pads), (0,) * x.type.rank, 0.0), x)
    parts = []
    for offset in np.ndindex(*kernel):
        starts = (0, 0, *(m * d for m, d in zip(offset, op.dilation, strict=True)))
        seen = b.apply(Slice(starts, (n, channels, *out), (1, 1, *op.stride)), x)
        parts.append(b.apply(Reshape((n, channels, 1, math.prod(out))), seen))
    together = b.apply(Concat(2, len(parts)), *parts)
    return b.apply(Reshape((n, channels * len(parts), math.prod(out))), together)
