"""A convolution cut into tiles for minimal filtering."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import prod

from convc.algorithms.convolution import Convolution
from convc.algorithms.winograd.toom_cook import Filtering, filtering
from convc.cost import stream_bytes


@dataclass(frozen=True)
class Tiling:
    """A convolution cut into tiles: per axis the filtering, the tiles, where the first one reads.

    A dilated axis is cut into ``dilation`` interleaved ones, each tiled for itself. ``flip``: the
    weights run backwards, as they do in the input gradient.
    """

    shape: Convolution
    filters: tuple[Filtering, ...]
    outputs: tuple[int, ...]
    tiles: tuple[int, ...]
    start: tuple[int, ...]
    flip: bool
    lanes: int

    @staticmethod
    def of(shape: Convolution, outputs: int, lanes: int) -> Tiling:
        (lines,) = shape.lines()
        taps = shape.weights[2:]
        each = tuple(outputs if tap > 1 else 1 for tap in taps)
        dilation = shape.op.dilation
        filters = (
            filtering(m, tap) if tap > 1 else IDENTITY for m, tap in zip(each, taps, strict=True)
        )
        return Tiling(
            shape,
            tuple(filters),
            each,
            tuple(
                -(-line.count // (m * d)) for line, m, d in zip(lines, each, dilation, strict=True)
            ),
            tuple(line.input[0] + min(0, line.input[2] * (line.taps - 1)) for line in lines),
            shape.transposed,
            lanes,
        )

    @property
    def dilation(self) -> tuple[int, ...]:
        return self.shape.op.dilation

    @property
    def points(self) -> tuple[int, ...]:
        return tuple(each.products for each in self.filters)

    @property
    def out_blocks(self) -> int:
        return -(-self.shape.out // self.lanes)

    @property
    def in_blocks(self) -> int:
        return -(-self.shape.inner // self.lanes)

    def halo(self) -> tuple[tuple[int, int], ...]:
        """How far the tiles read beyond the input; the last ones may overhang the output."""
        starts = [(t - 1) * m for t, m in zip(self.tiles, self.outputs, strict=True)]
        axes = zip(self.start, starts, self.points, self.dilation, self.shape.read[2:], strict=True)
        return tuple(
            (max(0, -start), max(0, start + (last + points) * d - n))
            for start, last, points, d, n in axes
        )

    def block(self, itemsize: int) -> tuple[int, ...]:
        """Tiles that are transformed together: those that take the least time to fetch.

        Every block reads all transformed weights; and for every pair of output blocks, its own
        transformed tiles again, from a slower cache the more there are of them.
        """
        choices = {self._cut(most) for most in (7, 14, 21, 28, 42, 56, 98)}
        return min(choices, key=lambda sizes: self.fetch_seconds(sizes, itemsize))

    def fetch_seconds(self, sizes: tuple[int, ...], itemsize: int) -> float:
        """Seconds of reading weights and tiles, for one image cut into blocks of these sizes."""
        point = prod(self.points) * itemsize
        weights = point * self.shape.inner * self.out_blocks * self.lanes
        tiles = point * prod(sizes) * self.in_blocks * self.lanes
        blocks = prod(-(-count // size) for count, size in zip(self.tiles, sizes, strict=True))
        again = tiles * -(-self.out_blocks // 2)
        return blocks * (weights / stream_bytes(weights) + again / stream_bytes(tiles))

    def _cut(self, most: int) -> tuple[int, ...]:
        sizes = [1] * len(self.tiles)
        for axis in reversed(range(len(self.tiles))):
            sizes[axis] = _even_part(self.tiles[axis], max(1, most // prod(sizes)))
        return tuple(sizes)


IDENTITY = Filtering(*(((Fraction(1),),),) * 3)


def _even_part(count: int, most: int) -> int:
    """The width that cuts ``count`` into the fewest parts of at most ``most``, evenly."""
    parts = -(-count // most)
    return -(-count // parts)
