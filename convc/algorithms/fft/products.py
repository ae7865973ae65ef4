"""Kernels that multiply spectra and transform the results back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import product

from convc.algorithms.epilogue import Step
from convc.algorithms.fft.butterfly import Arithmetic, Complex, Line, Point
from convc.algorithms.fft.estimate import FEW, TILES
from convc.algorithms.fft.frame import Frame, Tile
from convc.algorithms.fft.passes import Source
from convc.algorithms.fft.plane import Plane
from convc.layout import Image
from convc.schedule import segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import call, fma
from ir.loops.nodes import Expr


def depthwise(frame: Frame, x: Image, u: Buffer, y: Image, finish: Step) -> None:
    """Each channel for itself: there, times the weights, and back, in one go."""
    k, tiling = frame.k, frame.tiling
    rows = tiling.axes[0]
    with ExitStack() as loops:
        c = loops.enter_context(k.loop("c", x.blocks, "parallel"))
        n = loops.enter_context(k.loop("n", x.shape[0], "parallel"))
        tile = frame.tile(loops, "parallel")

        def cells(row: Affine, column: Affine, _: range, v: Affine) -> Expr:
            return x[(n, c, *tile.source(row, column), v)]

        plane = frame.plane(tiling.lanes)
        plane.transform_rows(rows.inside, cells)
        with plane.each_column() as f:

            def multiply(m: Arithmetic, positions: Sequence[Affine], values: Line) -> list[Point]:
                pairs = zip(positions, values, strict=True)
                products = [m.multiply(z, _pair(u, (c, f, p, 0), m.v)) for p, z in pairs]
                return [None if z is None else (z[1], z[0]) for z in products]

            plane.filter(f, rows.outputs, multiply)
        _finish(plane, tile, y, (n, c), finish)


def _pair(u: Buffer, place: tuple[Affine | int, ...], v: Affine) -> Complex:
    return u[(*place, 0, v)], u[(*place, 1, v)]


def _finish(plane: Plane, tile: Tile, y: Image, place: tuple[Affine, Affine], finish: Step) -> None:
    """Rows back to the image, where the epilogue meets them."""
    k = plane.k

    def put(row: Affine, column: Affine, value: Expr, v: Affine) -> None:
        with tile.guarded(row, column):
            index = (*place, *tile.result(row, column), v)
            k.store(y[index], finish(value, index))

    plane.restore_rows(tile.frame.tiling.axes[0].outputs, put)


def mixing(frame: Frame, s: Buffer, u: Buffer, y: Image, finish: Step, registers: int) -> None:
    """Sums over the input channels of spectra times weights, and back.

    Each weight read serves some tiles, neighbours or of neighbouring images.
    """
    k, tiling = frame.k, frame.tiling
    extents = {"n": y.shape[0], "t1": tiling.grid[1]}
    along = "t1" if tiling.grid[1] > 1 else "n"
    most = TILES if tiling.shape.inner > FEW else 1
    for first, count, width in segments(extents[along], even_part(extents[along], most)):
        with ExitStack() as loops:
            o = loops.enter_context(k.loop("o", y.blocks, "parallel"))
            sizes = {"n": y.shape[0], "t0": tiling.grid[0], "t1": tiling.grid[1], along: count}
            at = {axis: loops.enter_context(k.loop(axis, size, "parallel"))
                  for axis, size in sizes.items()}  # fmt: skip
            at[along] = at[along] * width + first
            group = _Group(frame, s, u, o, at, along, width)
            plane = group.transform(max(registers // (4 * width), 1))
            with group.each() as (number, n, tile):
                _finish(replace(plane, first=number * plane.pairs), tile, y, (n, o), finish)


def even_part(count: int, most: int) -> int:
    """The width that cuts ``count`` into the fewest parts of at most ``most``, evenly."""
    return -(-count // -(-count // most))


@dataclass(frozen=True)
class _Group:
    """Some tiles of a block of outputs: ``width`` of them along one axis, from ``start``."""

    frame: Frame
    s: Buffer
    u: Buffer
    block: Affine
    start: Mapping[str, Affine]
    along: str
    width: int

    @contextmanager
    def each(self) -> Iterator[tuple[Affine, Affine, Tile]]:
        """A loop over the tiles: number, image, place in the image."""
        with self.frame.k.loop("tile", self.width) as number:
            n, down, across = self._place(number)
            yield number, n, Tile(self.frame, down, across)

    def _place(self, number: Affine) -> tuple[Affine, ...]:
        at = {**self.start, self.along: self.start[self.along] + number}
        return at["n"], at["t0"], at["t1"]

    def transform(self, rows: int) -> Plane:
        """The columns of all tiles; the sums run over so many rows of frequencies at a time."""
        k, tiling = self.frame.k, self.frame.tiling
        plane = self.frame.plane(tiling.lanes, self.width)
        shape = (self.width, *plane.columns.work.shape)
        many = tiling.shape.inner > FEW
        sums = k.local("products", self.frame.dtype, shape) if many else None
        with plane.each_column() as f:
            if sums:
                self._accumulate(f, sums, rows)
            with k.loop("tile", self.width) as number:
                source = self._summed(sums, number) if sums else self._few(f, number)
                part = replace(plane, first=number * plane.pairs)
                part.synthesise(f, tiling.axes[0].outputs, source)
        return plane

    def _summed(self, sums: Buffer, number: Affine) -> Source:
        """What the inverse transform reads: real and imaginary parts exchanged."""
        return lambda row, _, v: (sums[number, row, 1, v], sums[number, row, 0, v])

    def _few(self, f: Affine, number: Affine) -> Source:
        """The same, summed as it is read."""

        def load(row: Affine, _: range, v: Affine) -> Point:
            total: Point = None
            for c in range(self.frame.tiling.shape.inner):
                block, lane = divmod(c, self.s.shape[-1])
                total = self._add(total, number, (f, row), (Affine.of(block), Affine.of(lane)), v)
            assert total
            return total[1], total[0]

        return load

    def _accumulate(self, f: Affine, sums: Buffer, rows: int) -> None:
        """sums[tile, row] = the sum over the input channels, for a whole column."""
        k, (tiles, height, _, lanes) = self.frame.k, sums.shape
        for start, count, width in segments(height, rows):
            with k.loop("chunk", count) as chunk:
                first = chunk * width + start
                part = k.local("part", sums.dtype, (tiles, width, 2, lanes))
                for t, r, half, v in _elements(k, part):
                    k.store(part[t, r, half, v], k.constant(0, part.dtype))
                self._sum(f, first, part)
                for t, r, half, v in _elements(k, part):
                    k.store(sums[t, first + r, half, v], part[t, r, half, v])

    def _sum(self, f: Affine, first: Affine, part: Buffer) -> None:
        k, (tiles, width, _, lanes), block = self.frame.k, part.shape, self.s.shape[-1]
        for start, blocks, depth in segments(self.frame.tiling.shape.inner, block):
            with (
                k.loop("b", blocks) as b,
                k.loop("i", depth) as i,
                k.loop("v", lanes, "vector") as v,
            ):
                for t, r in product(range(tiles), range(width)):
                    old = part[t, r, 0, v], part[t, r, 1, v]
                    at, c = (f, first + r), (b + start // block, i)
                    new = self._add(old, Affine.of(t), at, c, v)
                    for half in (0, 1):
                        k.store(part[t, r, half, v], new[half])

    def _add(
        self,
        total: Point,
        number: Affine,
        at: tuple[Affine, Affine],
        c: tuple[Affine, Affine],
        v: Affine,
    ) -> Complex:
        """One more product for a tile: of input channel ``c``, as block and lane."""
        (f, row), (block, lane), tile = at, c, self._place(number)
        x, y = (self.s[(*tile, block, f, row, part, lane)] for part in (0, 1))
        channel = block * self.s.shape[-1] + lane
        a, b = (self.u[self.block, f, row, channel, part, v] for part in (0, 1))
        if total is None:
            return fma(call("neg", y), b, x * a), fma(y, a, x * b)
        return fma(call("neg", y), b, fma(x, a, total[0])), fma(y, a, fma(x, b, total[1]))


def _elements(k: KernelBuilder, part: Buffer) -> Iterator[tuple[int, int, int, Affine]]:
    """Each vector of a small array in a vector loop of its own."""
    tiles, rows, halves, lanes = part.shape
    for t, r, half in product(range(tiles), range(rows), range(halves)):
        with k.loop("v", lanes, "vector") as v:
            yield t, r, half, v
