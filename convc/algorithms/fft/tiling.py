"""Cutting a convolution into tiles whose transforms are short, smooth and full of use.

Overlap-save (Oppenheim and Schafer 1989, 8.7.3): a tile of n input positions gives n - taps + 1
outputs, the others being spoilt by the wrap-around of the circular convolution. Where one tile
covers an axis it may be shorter: what wraps around then are zeros of the padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from math import prod

from convc.algorithms.convolution import Convolution
from convc.layout import Pads

LONGEST = 4096  # points of a transform
WIDE = {2: 2.0, 3: 4.0, 4: 4.0, 5: 7.2, 6: 6.0, 8: 6.75, 9: 9.8, 10: 9.2}  # operations per point
RADICES = tuple(sorted(WIDE))


@dataclass(frozen=True)
class Axis:
    """One axis: ``points`` of a tile of the input give ``outputs``; the first starts at ``start``.

    ``radices`` are those of the passes of the transform, in order.
    """

    size: int
    taps: int
    count: int
    start: int
    tiles: int
    points: int

    @property
    def outputs(self) -> int:
        return -(-self.count // self.tiles)

    @property
    def overhang(self) -> int:
        """Outputs of the tiles beyond the last."""
        return self.tiles * self.outputs - self.count

    @property
    def pad(self) -> tuple[int, int]:
        """How far tiles of the input reach beyond it."""
        last = self.start + (self.tiles - 1) * self.outputs + self.points
        return max(0, -self.start), max(0, last - self.size)

    @property
    def inside(self) -> range:
        """Positions of a tile that some tile may find inside the input."""
        if self.tiles > 1:
            return range(self.points)
        return range(max(0, -self.start), max(0, min(self.points, self.size - self.start)))


@dataclass(frozen=True)
class Tiling:
    """A convolution as images of two axes (of one there is a single row) cut into tiles."""

    shape: Convolution
    axes: tuple[Axis, Axis]
    lanes: int

    @staticmethod
    def of(shape: Convolution, lanes: int) -> Tiling:
        (lines,) = shape.lines()
        sizes = [
            (n, line.taps, line.count, line.input[0] + min(0, line.input[2] * (line.taps - 1)))
            for n, line in zip(shape.read[2:], lines, strict=True)
        ]
        if len(sizes) == 1:
            sizes.insert(0, (1, 1, 1, 0))
        return Tiling(shape, _cheapest(*sizes), lanes)

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

    @cached_property
    def radices(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the columns' passes and of the rows'."""
        return plan(self.axes[0].points), plan(self.axes[1].points, even=True)


Sizes = tuple[int, int, int, int]  # of an axis: size, taps, count, start


@cache
def _cheapest(first: Sizes, second: Sizes) -> tuple[Axis, Axis]:
    """The tiles that take the least time, forth and back."""
    pairs = product(_candidates(*first, even=False), _candidates(*second, even=True))
    return min(pairs, key=lambda axes: axes[0].tiles * axes[1].tiles * sum(tile_cycles(*axes)))


def _candidates(size: int, taps: int, count: int, start: int, even: bool) -> Iterator[Axis]:
    """For each number of tiles the smooth lengths that suffice and are not much longer."""
    seen: set[int] = set()
    for tiles in range(1, count + 1):
        outputs = -(-count // tiles)
        need = outputs + taps - 1
        if tiles == 1:
            need = min(need, max(size - start, start + need, count, taps))
        if need > LONGEST or outputs in seen:
            continue
        seen.add(outputs)
        lengths = [n for n in smooth() if need <= n <= 1.3 * need + 4 and not (even and n % 2)]
        yield from (Axis(size, taps, count, start, tiles, n) for n in lengths)
        if outputs < taps / 8:
            return


@cache
def smooth() -> tuple[int, ...]:
    """The lengths 2^a 3^b 5^c."""
    lengths = {2**a * 3**b * 5**c for a in range(13) for b in range(8) for c in range(6)}
    return tuple(sorted(n for n in lengths if n <= 2 * LONGEST))


def tile_cycles(rows: Axis, columns: Axis) -> tuple[float, float]:
    """Cycles to transform a vector of tiles, and to transform one back."""
    down = line_cycles(rows.points) * (columns.points // 2 + 1)
    across = line_cycles(columns.points, even=True)
    spill = 1.5 if prod((rows.points, columns.points)) * 64 > 700_000 else 1.0
    lines = -(-len(rows.inside) // 2), -(-rows.outputs // 2)
    return (across * lines[0] + down) * spill, (across * lines[1] + down) * spill


@cache
def line_cycles(length: int, even: bool = False) -> float:
    return length * sum(_cycles(radix) for radix in plan(length, even))


def _cycles(radix: int) -> float:
    """Cycles per point of a pass: loads, stores and the loop, arithmetic."""
    return 1.5 + (WIDE.get(radix, 0) + 3.5) / 2.2


@cache
def plan(length: int, even: bool = False) -> tuple[int, ...]:
    """Radices whose product is the length, the cheapest ones; ``even``: so is the first one."""
    if length in WIDE or length == 1:
        return (length,)
    options = [
        (radix, *plan(length // radix))
        for radix in RADICES
        if length % radix == 0 and length > radix and not (even and radix % 2)
    ]
    return min(options, key=lambda radices: (sum(map(_cycles, radices)), -radices[0]))
