"""Kernels that multiply spectra and transform the results back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from convc.algorithms.epilogue import Step
from convc.algorithms.fft.butterfly import Arithmetic, Complex, Line, Point
from convc.algorithms.fft.frame import Frame, Tile
from convc.algorithms.fft.passes import Source
from convc.algorithms.fft.plane import Plane
from convc.layout import Image
from convc.schedule import segments
from ir.loops import Affine, Buffer
from ir.loops.builder import call, fma
from ir.loops.nodes import Expr

FEW = 4  # input channels whose products are summed as they are transformed
CHAINS = 4  # sums in flight where there are more channels


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


def _finish(
    plane: Plane, tile: Tile, y: Image, place: tuple[Affine, Affine], finish: Step
) -> None:
    """Rows back to the image, where the epilogue meets them."""
    k = plane.k

    def put(row: Affine, column: Affine, value: Expr, v: Affine) -> None:
        with tile.guarded(row, column):
            index = (*place, *tile.result(row, column), v)
            k.store(y[index], finish(value, index))

    plane.restore_rows(tile.frame.tiling.axes[0].outputs, put)


def mixing(frame: Frame, s: Buffer, u: Buffer, y: Image, finish: Step) -> None:
    """Sums over the input channels of spectra times weights, and back."""
    k, tiling = frame.k, frame.tiling
    with ExitStack() as loops:
        o = loops.enter_context(k.loop("o", y.blocks, "parallel"))
        n = loops.enter_context(k.loop("n", y.shape[0], "parallel"))
        tile = frame.tile(loops, "parallel")
        plane = frame.plane(tiling.lanes)
        terms = _Terms(frame, s, u, (n, tile.down, tile.across), o)
        with plane.each_column() as f:
            if tiling.shape.inner > FEW:
                terms.accumulate(f, plane.columns.work)
            plane.synthesise(f, tiling.axes[0].outputs, terms.source(f, plane.columns.work))
        _finish(plane, tile, y, (n, o), finish)


@dataclass(frozen=True)
class _Terms:
    """The products of one tile's spectra, broadcast, with the weights of a block of outputs."""

    frame: Frame
    s: Buffer
    u: Buffer
    tile: tuple[Affine, ...]
    block: Affine

    def source(self, f: Affine, work: Buffer) -> Source:
        """Of a column's inverse transform, which wants real and imaginary parts exchanged."""
        inner = self.frame.tiling.shape.inner

        def few(row: Affine, _: range, v: Affine) -> Point:
            total: Point = None
            for c in range(inner):
                block, lane = divmod(c, self.s.shape[-1])
                total = self._add(total, (f, row), (Affine.of(block), Affine.of(lane)), v)
            assert total
            return total[1], total[0]

        def many(row: Affine, _: range, v: Affine) -> Point:
            return work[row, 1, v], work[row, 0, v]

        return few if inner <= FEW else many

    def accumulate(self, f: Affine, work: Buffer) -> None:
        """work[row] = the sum over the input channels, for a whole column."""
        k, lanes = self.frame.k, work.shape[-1]
        for start, count, width in segments(work.shape[0], CHAINS):
            with k.loop("chunk", count) as chunk:
                first = chunk * width + start
                sums = k.local("sums", work.dtype, (width, 2, lanes))
                with k.loop("r", width, "unroll") as r, k.loop("part", 2, "unroll") as part:
                    with k.loop("v", lanes, "vector") as v:
                        k.store(sums[r, part, v], k.constant(0, work.dtype))
                self._sum(f, first, sums)
                with k.loop("r", width, "unroll") as r, k.loop("part", 2, "unroll") as part:
                    with k.loop("v", lanes, "vector") as v:
                        k.store(work[first + r, part, v], sums[r, part, v])

    def _sum(self, f: Affine, first: Affine, sums: Buffer) -> None:
        k, (width, _, lanes), block = self.frame.k, sums.shape, self.s.shape[-1]
        for start, blocks, depth in segments(self.frame.tiling.shape.inner, block):
            with k.loop("b", blocks) as b, k.loop("i", depth) as i:
                with k.loop("r", width, "unroll") as r, k.loop("v", lanes, "vector") as v:
                    old = sums[r, 0, v], sums[r, 1, v]
                    new = self._add(old, (f, first + r), (b + start // block, i), v)
                    for part in (0, 1):
                        k.store(sums[r, part, v], new[part])

    def _add(
        self, total: Point, at: tuple[Affine, Affine], c: tuple[Affine, Affine], v: Affine
    ) -> Complex:
        """One more product: of input channel ``c``, as block and lane."""
        (f, row), (block, lane) = at, c
        x, y = (self.s[(*self.tile, block, f, row, part, lane)] for part in (0, 1))
        channel = block * self.s.shape[-1] + lane
        a, b = (self.u[self.block, f, row, channel, part, v] for part in (0, 1))
        if total is None:
            return fma(call("neg", y), b, x * a), fma(y, a, x * b)
        return fma(call("neg", y), b, fma(x, a, total[0])), fma(y, a, fma(x, b, total[1]))
