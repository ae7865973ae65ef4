"""Tiles of output pixels, and what each pixel reads."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from math import prod

from convc.algorithms.geometry import Lines
from convc.layout import Image
from convc.schedule import Point, Segment, segments
from ir.loops import Affine, KernelBuilder
from ir.loops.nodes import Load, LoopKind

COLUMNS = 128 << 10  # bytes of gathered patches
PIXELS = 256  # of a tile, at most


@dataclass(frozen=True)
class Cut:
    """Tiles of one size: of the axes before the last two a position each, then a rectangle."""

    lead: tuple[int, ...]
    down: Segment
    across: Segment
    rank: int

    @property
    def count(self) -> int:
        return prod(self.lead) * self.down[1] * self.across[1]

    def enter(
        self, k: KernelBuilder, loops: ExitStack, kind: LoopKind
    ) -> tuple[tuple[Affine, ...], tuple[int, int]]:
        """Loop over the tiles: where one starts, its rows and columns."""
        lead = [loops.enter_context(k.loop("q", count, kind)) for count in self.lead]
        corner = (
            loops.enter_context(k.loop(name, trips, kind)) * width + first
            for name, (first, trips, width) in (("h", self.down), ("w", self.across))
        )
        return (*lead, *corner)[-self.rank :], (self.down[2], self.across[2])


def tile_cuts(lines: Lines, most: int) -> list[Cut]:
    """Tiles of at most so many pixels."""
    *above, last = (line.count for line in lines)
    columns = even_part(last, most)
    rows = even_part(above[-1], max(1, most // columns)) if above else 1
    downs = segments(above[-1], rows) if above else [(0, 1, 1)]
    return [
        Cut(tuple(above[:-1]), down, across, len(lines))
        for down, across in product(downs, segments(last, columns))
    ]


def even_part(count: int, most: int) -> int:
    """The width that cuts ``count`` into the fewest parts of at most ``most``, evenly."""
    parts = -(-count // most)
    return -(-count // parts)


@dataclass(frozen=True)
class Tile:
    """Some pixels of one example: rows and columns of the last two axes."""

    k: KernelBuilder
    lines: Lines
    x: Image
    origin: tuple[Affine, Affine]  # example, first channel
    start: tuple[Affine, ...]
    size: tuple[int, int]
    lanes: int

    def position(self, row: Affine, column: Affine) -> tuple[Affine, ...]:
        """Output numbers, in the lines, of a pixel."""
        *lead, last = self.start
        if lead:
            lead[-1] = lead[-1] + row
        return (*lead, last + column)

    def element(self, p: Point, row: Affine, column: Affine) -> Load:
        """What a pixel multiplies with an element of its patch."""
        at = zip(self.lines, self.position(row, column), strict=True)
        read = (line.in_at(q, p[f"t{axis}"]) for axis, (line, q) in enumerate(at))
        return self.x[(self.origin[0], self.origin[1] + p["i"], *read, 0)]

    @property
    def pixels(self) -> int:
        return prod(self.size)

    def spans(self) -> list[Segment]:
        """Vectors of neighbours on the last axis: the first, how many, how wide."""
        return segments(self.size[1], self.lanes)


def patch_index(p: Point, taps: Sequence[int]) -> Affine:
    """The number of an element in a patch of [channels, *taps]."""
    number = p["i"]
    for axis, extent in enumerate(taps):
        number = number * extent + p[f"t{axis}"]
    return number
