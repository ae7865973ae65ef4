"""Pooling to a fixed number of outputs, whatever the size of the input.

Goodfellow et al. 2016, section 9.3: the size of an offset between pooling regions, or of the
regions themselves, varies with that of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ir.errors import AttributeValueError, ShapeError
from ir.op import Example, Values, require_floats, require_integer, require_tuple
from ir.ops.composite import Composite
from ir.ops.index import Take
from ir.ops.movement import Pad
from ir.ops.pointwise import Mul
from ir.ops.pool import AveragePool, MaxPool
from ir.ops.reduce import Mean, ReduceMax
from ir.ops.shape import Reshape
from ir.types import Array, TensorType

if TYPE_CHECKING:
    from ir.builder import Builder, Value

Bins = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class AdaptivePool(Composite):
    """x [N, C, *S] → [N, C, *size]: the maximum or the mean of `size` bins along each axis.

    With n cells and P bins, bin i is `mode` "partition": ⌊i·n/P⌋ up to ⌊(i+1)·n/P⌋, for n ≥ P;
    "cover": up to ⌈(i+1)·n/P⌉, so that bins may overlap; "offset": the `window` of so many cells
    from ⌊i·(n - window)/(P - 1)⌋ on. Of equal maxima the first counts. `window` is () but for
    "offset".
    """

    kind: str
    size: tuple[int, ...]
    mode: str
    window: tuple[int, ...]

    name: ClassVar[str] = "adaptive_pool"
    formula: ClassVar[str] = "y[n,c,j] = reduce of x[n,c,a] over a in bin j"
    operands: ClassVar[tuple[str, ...]] = ("x",)

    def validate(self) -> None:
        for attribute, legal in (("kind", ("max", "average")),
                                 ("mode", ("partition", "cover", "offset"))):  # fmt: skip
            value = getattr(self, attribute)
            if value not in legal:
                hint = f"is not {', '.join(legal[:-1])} or {legal[-1]}"
                raise AttributeValueError(f"{self.name}: {attribute} = {value!r} {hint}")
        axes = len(require_tuple(self, "size", self.size))
        windows = axes if self.mode == "offset" else 0
        for attribute, count in (("size", max(1, axes)), ("window", windows)):
            value = require_tuple(self, attribute, getattr(self, attribute))
            if len(value) != count:
                reason = f"needs {count} entries for mode {self.mode} and size {self.size}"
                raise AttributeValueError(f"{self.name}: {attribute} = {value} {reason}")
            for entry in value:
                require_integer(self, attribute, entry, 1)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        (x,) = types
        require_floats(self, x)
        if x.rank != len(self.size) + 2:
            wanted = f"[N, C, *S] with a spatial axis for each entry of size {self.size}"
            raise ShapeError(f"{self.name}: x is {x}, but must be {wanted}")
        for axis, n in enumerate(x.shape[2:]):
            least = {"partition": self.size, "cover": (1,) * len(self.size),
                     "offset": self.window}[self.mode][axis]  # fmt: skip
            if isinstance(n, int) and n < least:
                reason = f"axis {axis + 2} of {x} has {n} cells"
                raise ShapeError(f"{self.name}: {reason}; mode {self.mode} needs {least}")
        return (x.with_shape(*x.shape[:2], *self.size),)

    def bins(self, axis: int, n: int) -> Bins:
        """The first cell of each bin on a spatial axis of n cells, and the one after its last."""
        count = self.size[axis]
        if self.mode == "offset":
            room, gaps = n - self.window[axis], max(1, count - 1)
            starts = [i * room // gaps for i in range(count)]
            return tuple((start, start + self.window[axis]) for start in starts)
        up = count - 1 if self.mode == "cover" else 0
        return tuple((i * n // count, ((i + 1) * n + up) // count) for i in range(count))

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        (x,) = arrays
        reduce = np.max if self.kind == "max" else np.mean
        y = np.zeros(self.infer(TensorType.of(x))[0].static_shape, x.dtype)
        bins = [self.bins(axis, n) for axis, n in enumerate(x.shape[2:])]
        place: Any
        cells: Any
        for j in product(*map(range, self.size)):
            place, cells = (..., *j), (..., *(slice(*bins[axis][i]) for axis, i in enumerate(j)))
            y[place] = reduce(x[cells], axis=tuple(range(2, x.ndim)))
        return (y,)

    def expand(self, b: Builder, operands: Values) -> Values:
        (x,) = operands
        sizes = x.type.static_from(2)
        bins = [self.bins(axis, n) for axis, n in enumerate(sizes)]
        if all(each == ((0, n),) for each, n in zip(bins, sizes, strict=True)):
            axes = tuple(range(2, x.type.rank))
            reduced = b.apply(ReduceMax(axes) if self.kind == "max" else Mean(axes), x)
            return (b.apply(Reshape((*x.shape[:2], *self.size)), reduced),)
        windows = [_even(each, n) for each, n in zip(bins, sizes, strict=True)]
        whole = [window for window in windows if window]
        if len(whole) == len(windows):
            return (self._pool(b, x, dict(enumerate(whole))),)
        y = x
        for axis in reversed(range(len(bins))):  # so that the first maximum in row order is found
            window = windows[axis]
            y = self._pool(b, y, {axis: window}) if window else self._uneven(b, y, axis, bins[axis])
        return (y,)

    def _pool(
        self, b: Builder, x: Value, windows: dict[int, tuple[int, int]], divisor: str = "real"
    ) -> Value:
        """Windows (cells, stride) on some spatial axes, single cells on the others."""
        pairs = [windows.get(axis, (1, 1)) for axis in range(len(self.size))]
        cells, strides = tuple(k for k, _ in pairs), tuple(s for _, s in pairs)
        geometry = cells, strides, ((0, 0),) * len(pairs), (1,) * len(pairs), "drop"
        if self.kind == "max":
            return b.apply(MaxPool(*geometry), x)
        return b.apply(AveragePool(*geometry, divisor), x)

    def _uneven(self, b: Builder, x: Value, axis: int, bins: Bins) -> Value:
        """Bins of several widths on one axis: their cells side by side, filled up to the widest.

        The fill is a bin's last cell again for a maximum, and a cell of zero for a sum.
        """
        n, width = x.type.static_from(2)[axis], max(stop - start for start, stop in bins)
        largest = self.kind == "max"
        places = [cell if cell < stop else stop - 1 if largest else n
                  for start, stop in bins for cell in range(start, start + width)]  # fmt: skip
        if not largest:
            pads = tuple((0, int(a == axis + 2)) for a in range(x.type.rank))
            x = b.apply(Pad(pads, (0,) * x.type.rank, 0.0), x)
        index = b.weight(b.fresh("cells"), np.array(places, np.int64))
        side = b.apply(Take(axis + 2), x, index)
        pooled = self._pool(b, side, {axis: (width, width)}, "one")
        if largest:
            return pooled
        shares = np.array([1 / (stop - start) for start, stop in bins], x.dtype.numpy)
        column = shares.reshape(-1, *(1,) * (len(self.size) - 1 - axis))
        return b.apply(Mul(), pooled, b.weight(b.fresh("shares"), column))

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example.of("quadrants", cls("max", (2, 2), "partition", ()), "f32[2, 3, 5, 7]"),
            Example.of("even", cls("average", (3, 2), "partition", ()), "f32[1, 20, 6, 4]"),
            Example.of("uneven", cls("average", (3, 2), "partition", ()), "f32[1, 17, 7, 5]"),
            Example.of("cover", cls("max", (3, 4), "cover", ()), "f32[1, 5, 7, 5]"),
            Example.of("more bins than cells", cls("average", (5,), "cover", ()), "f32[3, 2, 3]"),
            Example.of("offset", cls("max", (2, 3), "offset", (3, 2)), "f32[1, 3, 5, 7]"),
            Example.of("one offset", cls("average", (1, 4), "offset", (2, 2)), "f32[2, 1, 5, 6]"),
            Example.of("global", cls("average", (1, 1), "partition", ()), "f32[3, 16, 5, 3]"),
            Example.of("3-D", cls("max", (2, 1, 3), "cover", ()), "f32[1, 2, 3, 2, 5]"),
            Example.of("batch 0", cls("average", (2,), "partition", ()), "f32[0, 3, 5]"),
        )


def _even(bins: Bins, n: int) -> tuple[int, int] | None:
    """Cells and stride of the windows that are these bins and no more; None if there are none."""
    width = bins[0][1] - bins[0][0]
    stride = bins[1][0] - bins[0][0] if len(bins) > 1 else n
    if stride < 1 or bins[0][0] or (n - width) // stride + 1 != len(bins):
        return None
    even = all(pair == (i * stride, i * stride + width) for i, pair in enumerate(bins))
    return (width, stride) if even else None
