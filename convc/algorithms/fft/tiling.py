"""Cutting a convolution into tiles whose transforms are short, smooth and full of use.

Overlap-save (Oppenheim and Schafer 1989, 8.7.3): a tile of n input positions gives n - taps + 1
outputs, the others being spoilt by the wrap-around of the circular convolution. Where one tile
covers an axis it may be shorter: what wraps around then are zeros of the padding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from convc.algorithms.convolution import Convolution
from convc.algorithms.fft.estimate import FEW, seconds
from convc.algorithms.fft.lengths import cycles, passes, smooth
from convc.layout import Pads


@dataclass(frozen=True)
class Axis:
    """One axis: ``points`` of a tile of the input give ``outputs``; the first starts at ``start``.

    On the only axis of a line, a tile is ``together`` neighbouring pieces, which are its rows.
    """

    size: int
    taps: int
    count: int
    start: int
    tiles: int
    points: int
    together: int = 1

    @property
    def outputs(self) -> int:
        return -(-self.count // (self.tiles * self.together))

    @property
    def overhang(self) -> int:
        """Outputs of the tiles beyond the last."""
        return self.tiles * self.together * self.outputs - self.count

    @property
    def pad(self) -> tuple[int, int]:
        """How far tiles of the input reach beyond it."""
        last = self.start + (self.tiles * self.together - 1) * self.outputs + self.points
        return max(0, -self.start), max(0, last - self.size)

    @property
    def inside(self) -> range:
        """Positions of a tile that some tile may find inside the input."""
        if self.tiles * self.together > 1:
            return range(self.points)
        return range(max(0, -self.start), max(0, min(self.points, self.size - self.start)))


@dataclass(frozen=True)
class Tiling:
    """A convolution as images of two axes (of one there is a single row) cut into tiles."""

    shape: Convolution
    axes: tuple[Axis, Axis]
    lanes: int
    across: bool = False  # lanes are tiles all the way

    @staticmethod
    @lru_cache(maxsize=4096)
    def of(shape: Convolution, lanes: int, item: int, gradient: bool) -> Tiling:
        """The cheapest one, of elements of so many bytes."""
        (lines,) = shape.lines()
        sizes = [
            (n, line.taps, line.count, line.input[0] + min(0, line.input[2] * (line.taps - 1)))
            for n, line in zip(shape.read[2:], lines, strict=True)
        ]
        last = _candidates(*sizes[-1], even=True)
        if len(sizes) == 1:
            axes: Iterable[tuple[Axis, Axis]] = map(_paired, last)
        else:
            axes = product(_candidates(*sizes[0], even=False), last)
        few = shape.op.groups == 1 and shape.out <= FEW and len(sizes) > 1 and not gradient
        tilings = [Tiling(shape, each, lanes, form) for each in axes for form in {False, few}]
        return min(tilings, key=lambda tiling: seconds(tiling, item, gradient))

    @property
    def depthwise(self) -> bool:
        return self.shape.op.groups > 1

    @property
    def flip(self) -> bool:
        """Whether weights run backwards, as they do in the input gradient."""
        return self.shape.transposed

    @property
    def columns(self) -> int:
        """Columns of a spectrum that are kept, the others being their conjugates."""
        return self.axes[1].points // 2 + 1

    @property
    def grid(self) -> tuple[int, int]:
        return self.axes[0].tiles, self.axes[1].tiles

    @property
    def spectrum(self) -> tuple[int, int, int]:
        """Shape of the spectrum of a tile: columns, rows, real and imaginary part."""
        return self.columns, self.axes[0].points, 2

    def halo(self) -> Pads:
        return tuple(axis.pad for axis in self.axes)[-len(self.shape.op.stride) :]

    @property
    def radices(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the columns' passes and of the rows'."""
        return passes(self.axes[0].points), passes(self.axes[1].points, even=True)

    @property
    def weight_blocks(self) -> tuple[int, int]:
        """Blocks of output channels, and the input channels that each of them sums."""
        if self.depthwise:
            return -(-self.shape.weights[0] // self.lanes), 1
        return -(-self.shape.out // self.lanes), self.shape.inner

    @property
    def image_block(self) -> int:
        """How the walked image is read: in blocks, or plain where tiles fill more lanes."""
        tiles = 0 if self.depthwise else self.grid[1]
        few = self.shape.inner < min(tiles, self.lanes)
        return 1 if self.across or few else self.lanes

    @property
    def result_block(self) -> int:
        return 1 if self.across else self.lanes


def _paired(axis: Axis) -> tuple[Axis, Axis]:
    """The pieces of a line two by two, as the rows of images; the kernel has one row."""
    rows = min(axis.tiles, 2)
    tiles = -(-axis.tiles // rows)
    return Axis(rows, 1, rows, 0, 1, rows), replace(axis, tiles=tiles, together=rows)


def _candidates(size: int, taps: int, count: int, start: int, even: bool) -> list[Axis]:
    """Tiles of the smooth lengths, as few as suffice; a longer one must not cost much more."""
    whole = count + taps - 1
    whole = min(whole, max(size - start, start + whole, count, taps))
    found: list[Axis] = []
    best = float("inf")
    for points in smooth():
        if points < taps or (even and points % 2):
            continue
        tiles = 1 if points >= whole else -(-count // (points - taps + 1))
        price = tiles * cycles(points)
        if price < 1.3 * best:
            found.append(Axis(size, taps, count, start, tiles, points))
        best = min(best, price)
        if points > 1.2 * whole:
            break
    return found
