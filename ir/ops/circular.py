"""Data that go round: an image continued on all sides by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ir.errors import ShapeError
from ir.op import Example, Values, require_floats, require_tuple
from ir.ops.composite import Composite
from ir.ops.movement import Concat, Slice
from ir.ops.window import Pads, require_geometry
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder, Value


@dataclass(frozen=True)
class CircularPad(Composite):
    """x [N, C, *S] with its spatial axes continued round and round: [N, C, *(lo + S + hi)].

    `pads` has a pair (lo, hi) per spatial axis; they may exceed the extent, and negative ones
    crop. A convolution of the result is one with circular boundary, whose matrix is doubly block
    circulant (Goodfellow et al. 2016, section 9.1).
    """

    pads: Pads

    name: ClassVar[str] = "circular_pad"
    formula: ClassVar[str] = "y[n,c,a] = x[n,c,(a - lo) mod S]"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        axes = len(require_tuple(self, "pads", self.pads))
        require_geometry(self, (1,) * axes, self.pads)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        require_floats(self, x)
        if x.rank != len(self.pads) + 2:
            wanted = f"[N, C, *S] with a spatial axis for each of pads {self.pads}"
            raise ShapeError(f"{self.name}: x is {x}, but must be {wanted}")
        sizes = []
        for n, (lo, hi) in zip(x.shape[2:], self.pads, strict=True):
            size = n + lo + hi
            if isinstance(size, int) and (size < 0 or (n == 0 and size)):
                reason = "nothing to repeat" if n == 0 else f"{size} cells"
                raise ShapeError(f"{self.name}: pads ({lo}, {hi}) on {n} cells of {x}: {reason}")
            sizes.append(size)
        return (x.with_shape(*x.shape[:2], *sizes),)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (y,) = arrays
        for axis, (lo, hi) in enumerate(self.pads, 2):
            n = y.shape[axis]
            y = y.take(np.arange(-lo, n + hi) % n if n else [], axis)
        return (y,)

    def expand(self, b: Builder, operands: Values) -> Values:
        (y,) = operands
        for axis, (lo, hi) in enumerate(self.pads, 2):
            if (lo, hi) != (0, 0):
                y = _around(b, y, axis, -lo, lo + hi)
        return (y,)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("image", cls(((1, 2), (0, 1))), "f32[2, 3, 4, 5]"),
            Example.of("further than the extent", cls(((7, 5), (0, 0))), "f32[1, 20, 3, 2]"),
            Example.of("one cell", cls(((2, 3),)), "f32[3, 2, 1]"),
            Example.of("crop", cls(((-1, 3), (2, -3))), "f32[1, 17, 5, 4]"),
            Example.of("crop beyond", cls(((-7, 8),)), "f32[1, 2, 3]"),
            Example.of("nothing added", cls(((0, 0), (0, 0))), "f32[1, 2, 3, 4]"),
            Example.of("3-D", cls(((1, 1), (0, 2), (1, 0))), "f32[1, 2, 3, 2, 4]"),
            Example.of("batch 0", cls(((1, 1),)), "f32[0, 2, 3]"),
        )


def _around(b: Builder, x: Value, axis: int, first: int, more: int) -> Value:
    """The cells from `first` on, round and round, `more` than the axis has."""
    parts = []
    for start, size in _pieces(x.type.static_from(2)[axis - 2], first, more):
        starts = tuple(start if a == axis else 0 for a in range(x.type.rank))
        sizes = tuple(size if a == axis else n for a, n in enumerate(x.shape))
        whole = size == x.shape[axis]
        parts.append(x if whole else b.apply(Slice(starts, sizes, (1,) * len(sizes)), x))
    return parts[0] if len(parts) == 1 else b.apply(Concat(axis, len(parts)), *parts)


def _pieces(n: int, first: int, more: int) -> Iterator[tuple[int, int]]:
    """Runs (start, size) within n cells that `n + more` cells from `first` on consist of."""
    start, left = first % n if n else 0, n + more
    while True:
        size = min(n - start, left)
        yield start, size
        start, left = 0, left - size
        if not left:
            return
