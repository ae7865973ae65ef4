"""Tiled convolution: neighbouring windows have kernels of their own, repeated tile by tile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Op, Values, require_floats, require_integer
from ir.ops.circular import CircularPad
from ir.ops.composite import Composite
from ir.ops.conv import Conv, ConvAttributes
from ir.ops.movement import Concat, Slice
from ir.ops.pointwise import Add
from ir.ops.shape import Reshape
from ir.ops.window import pad_spatial
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder, Value


@dataclass(frozen=True)
class TiledConv(ConvAttributes, Composite):
    """Kernels that take turns: x [N, C, *S], w [K, C/groups, *k, *t] → [N, K, *out].

    Output cell j has kernel (j + phase) mod t on each axis. A range of 1 on every axis is `Conv`,
    one as long as the output `LocalConv`. Goodfellow et al. 2016, eq 9.10, whose printed indices
    begin with the second kernel: a phase of 1.
    """

    phase: tuple[int, ...]

    name: ClassVar[str] = "tiled_conv"
    formula: ClassVar[str] = "y[n,i,j] = Σ_l Σ_m x~[n,l, j·s + m·d - lo]·w[i,l,m,(j + phase) mod t]"
    operands: ClassVar[tuple[str, ...]] = ("x", "w")

    def validate(self) -> None:
        super().validate()
        require_phase(self, self.phase)
        if len(self.phase) != len(self.stride):
            hint = f"needs an entry for each of the {len(self.stride)} spatial axes"
            raise AttributeValueError(f"{self.name}: phase = {self.phase} {hint}")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, w = types
        require_floats(self, x, w)
        axes = len(self.stride)
        self.check_rank("x", x, "[N, C, *S]", axes + 2)
        self.check_rank("w", w, "[K, C/groups, *k, *t]", 2 * axes + 2)
        self.check_groups("output", w.shape[0])
        if x.shape[1] != w.shape[1] * self.groups:
            per = f"kernels {w} read {w.shape[1]} in each of {self.groups} groups"
            raise ShapeError(f"{self.name}: x is {x} with {x.shape[1]} channels, but {per}")
        require_tiles(self, w.shape[axes + 2 :], w)
        out = self.output_sizes(x.shape[2:], w.shape[2 : axes + 2])
        return (x.with_shape(x.shape[0], w.shape[0], *out),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, w = arrays
        (type,) = self.infer(TensorType.of(x), TensorType.of(w))
        n, k, *out = type.static_shape
        axes, cells = len(out), math.prod(out)
        padded = pad_spatial(x, self.pads)
        by_tap = np.moveaxis(w, (0, 1), (axes, axes + 1))
        y = np.zeros((n, self.groups, k // self.groups, cells), x.dtype)
        for m, seen in self.taps(w.shape[2 : axes + 2], out):
            own = tiles(by_tap[m], out, self.phase)
            own = own.reshape(self.groups, k // self.groups, -1, cells)
            y += np.einsum("ngcj,gkcj->ngkj", self.by_group(padded[seen]), own)
        return (y.reshape(n, k, *out),)

    def expand(self, b: Builder, operands: Values) -> Values:
        """A convolution for each place in a tile, and their outputs interleaved.

        An axis whose range does not divide its outputs is computed to the end of the last tile.
        """
        x, w = operands
        (type,) = self.infer(x.type, w.type)
        n, (k, *out) = type.shape[0], type.static_from(1)
        axes = len(out)
        ranges = w.type.static_shape[axes + 2 :]
        steps = [min(t, size) for t, size in zip(ranges, out, strict=True)]
        counts = [-(-size // step) for size, step in zip(out, steps, strict=True)]
        places = [self._place(b, x, w, place, steps, counts) for place in np.ndindex(*steps)]
        y = _interleaved(b, places, steps)
        whole = [step * count for step, count in zip(steps, counts, strict=True)]
        y = b.apply(Reshape((n, k, *whole)), y)
        if whole != out:
            y = b.apply(Slice((0,) * y.type.rank, type.shape, (1,) * y.type.rank), y)
        return (y,)

    def _place(
        self,
        b: Builder,
        x: Value,
        w: Value,
        place: tuple[int, ...],
        steps: Sequence[int],
        counts: Sequence[int],
    ) -> Value:
        """The outputs at one place of every tile, [N, K, (count, 1) per axis]."""
        axes = len(place)
        shape = w.type.static_shape
        kernel, ranges = shape[2 : axes + 2], shape[axes + 2 :]
        tile = [(a + phase) % t for a, phase, t in zip(place, self.phase, ranges, strict=True)]
        starts = (*(0,) * (axes + 2), *tile)
        own = b.apply(Slice(starts, (*shape[: axes + 2], *(1,) * axes), (1,) * w.type.rank), w)
        own = b.apply(Reshape(shape[: axes + 2]), own)
        stride = tuple(s * step for s, step in zip(self.stride, steps, strict=True))
        pads = []
        for axis, size in enumerate(x.type.static_from(2)):
            lo = self.pads[axis][0] - place[axis] * self.stride[axis]
            extent = (kernel[axis] - 1) * self.dilation[axis] + 1
            pads.append((lo, (counts[axis] - 1) * stride[axis] + extent - size - lo))
        y = b.apply(Conv(stride, tuple(pads), self.dilation, self.groups), x, own)
        pairs = (extent for count in y.shape[2:] for extent in (count, 1))
        return b.apply(Reshape((*y.shape[:2], *pairs)), y)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        def case(name: str, x: str, w: str, *attributes: Any) -> Example:
            return Example.of(name, cls(*attributes), f"f32[{x}]", f"f32[{w}]")

        one, no = (1, 1), ((0, 0), (0, 0))
        return (
            case("plain", "2, 2, 5, 6", "3, 2, 2, 3, 2, 2", one, no, one, 1, (0, 0)),
            case("different ranges", "1, 3, 7, 5", "17, 3, 3, 2, 2, 3", one, no, one, 1, (0, 0)),
            case("phase", "1, 1, 4, 6", "2, 1, 1, 2, 3, 2", one, no, one, 1, (2, 1)),
            case("strided, padded", "2, 2, 6, 5", "3, 2, 3, 2, 2, 1", (2, 1), ((1, 2), (0, 1)), one,
                 1, (1, 0)),
            case("dilated groups", "1, 4, 7", "6, 2, 2, 2", (1,), ((1, 0),), (2,), 2, (0,)),
            case("one tile", "1, 3, 4, 4", "5, 3, 3, 3, 1, 1", one, no, one, 1, (0, 0)),
            case("more kernels than outputs", "2, 1, 4", "2, 1, 3, 5", (1,), ((0, 0),), (1,), 1,
                 (4,)),
            case("crop", "1, 2, 6", "2, 2, 2, 2", (1,), ((-1, -1),), (1,), 1, (0,)),
            case("batch 0", "0, 2, 4", "3, 2, 2, 2", (1,), ((0, 0),), (1,), 1, (0,)),
        )  # fmt: skip


@dataclass(frozen=True)
class TiledBias(Composite):
    """x [N, C, *S] plus b [C, *t], repeated from tile to tile: cell j gets b at (j + phase) mod t.

    The biases of a tiled convolution with kernels of the same ranges. Goodfellow et al. 2016,
    section 9.5.
    """

    phase: tuple[int, ...]

    name: ClassVar[str] = "tiled_bias"
    formula: ClassVar[str] = "y[n,c,j] = x[n,c,j] + b[c,(j + phase) mod t]"
    operands: ClassVar[tuple[str, ...]] = ("x", "b")

    def validate(self) -> None:
        require_phase(self, self.phase)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, b = types
        require_floats(self, x, b)
        axes = len(self.phase)
        if x.rank != axes + 2 or b.rank != axes + 1 or b.shape[0] != x.shape[1]:
            wanted = f"x [N, C, *S] and b [C, *t] with {axes} spatial axes, as phase has"
            raise ShapeError(f"{self.name}: x is {x} and b is {b}, but must be {wanted}")
        require_tiles(self, b.shape[1:], b)
        return (x,)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        x, b = arrays
        return (x + tiles(b, x.shape[2:], self.phase),)

    def expand(self, b: Builder, operands: Values) -> Values:
        x, bias = operands
        size, ranges = x.type.static_from(2), bias.type.static_shape[1:]
        around = tuple((-p, n + p - t) for p, n, t in zip(self.phase, size, ranges, strict=True))
        one = b.apply(Reshape((1, *bias.shape)), bias)
        return (b.apply(Add(), x, b.apply(CircularPad(around), one)),)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("image", cls((0, 0)), "f32[2, 3, 5, 4]", "f32[3, 2, 3]"),
            Example.of("phase", cls((1, 5)), "f32[1, 17, 3, 5]", "f32[17, 2, 3]"),
            Example.of("one tile", cls((0, 0)), "f32[1, 2, 3, 4]", "f32[2, 3, 4]"),
            Example.of("more than cells", cls((2,)), "f32[3, 2, 3]", "f32[2, 7]"),
            Example.of("1-D", cls((0,)), "f32[2, 5, 20]", "f32[5, 1]"),
            Example.of("batch 0", cls((1,)), "f32[0, 2, 3]", "f32[2, 2]"),
        )


def tiles(kernels: Array, out: Sequence[int], phase: Sequence[int]) -> Array:
    """The last axes [*t] repeated over [*out] from `phase` on."""
    lead = kernels.ndim - len(out)
    for axis, (size, first) in enumerate(zip(out, phase, strict=True), lead):
        kernels = kernels.take((np.arange(size) + first) % kernels.shape[axis], axis)
    return kernels


def require_phase(op: Op, phase: object) -> None:
    """AttributeValueError unless `phase` is a tuple of whole numbers from 0 on."""
    if not isinstance(phase, tuple) or not phase:
        reason = "must be a tuple with a whole number per spatial axis"
        raise AttributeValueError(f"{op.name}: phase = {phase!r:.60} {reason}")
    for first in phase:
        require_integer(op, "phase", first, 0)


def require_tiles(op: Op, ranges: Sequence[object], type: TensorType) -> None:
    """ShapeError where a tile is empty."""
    if 0 in ranges:
        raise ShapeError(f"{op.name}: {type} has tiles of {tuple(ranges)}; none may be empty")


def _interleaved(b: Builder, places: Sequence[Value], steps: Sequence[int]) -> Value:
    """Outputs [N, K, (count, 1) per axis] of all places, row-major, as [N, K, (count, step)…]."""
    parts = list(places)
    for axis, step in reversed(list(enumerate(steps))):
        rows = [parts[i : i + step] for i in range(0, len(parts), step)]
        at = 3 + 2 * axis
        parts = [row[0] if step == 1 else b.apply(Concat(at, step), *row) for row in rows]
    return parts[0]
