"""Kernels for the gradient in the weights: dw = sum over tiles of x correlated with g.

The products are summed over all tiles as spectra, in one part or in several that can run side by
side; then each sum is transformed back once.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import reduce
from itertools import product
from math import prod

from convc.algorithms.fft.butterfly import Complex, Point
from convc.algorithms.fft.frame import Frame, Tile
from convc.algorithms.fft.passes import Source
from convc.algorithms.fft.plane import Plane, Put
from convc.algorithms.fft.tiling import Tiling
from convc.layout import Image
from convc.schedule import segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import call, fma
from ir.loops.nodes import Expr

PARTS = 8  # tasks to have at least, where the batch or the tiles give them


def depthwise(frame: Frame, g: Image, x: Image, d: Buffer) -> None:
    """d[part, block] = the sum over tiles of x times the conjugate of g."""
    k, tiling, lanes = frame.k, frame.tiling, frame.tiling.lanes
    with _parts(frame, d) as (part, block, n, tile):
        ours, theirs = frame.plane(lanes), frame.plane(lanes)
        _load_gradient(frame, ours, g, (n, block), tile)

        def cells(row: Affine, column: Affine, _: range, v: Affine) -> Expr:
            return x[(n, block, *tile.source(row, column), v)]

        theirs.transform_rows(tiling.axes[0].inside, cells)
        with ours.each_column() as f:
            _analyse(ours, f)

            def add(row: Affine, v: Affine, value: Complex) -> None:
                place = (part, block, Affine(), f, row)
                _accumulate(k, d, place, value, ours.columns.work, v)

            theirs.analyse(f, add)


def mixing(frame: Frame, g: Image, s: Buffer, d: Buffer) -> None:
    """The same for each input channel, whose spectra ``s`` are at hand."""
    k, tiling = frame.k, frame.tiling
    with _parts(frame, d) as (part, block, n, tile):
        plane = frame.plane(tiling.lanes)
        _load_gradient(frame, plane, g, (n, block), tile)
        with plane.each_column() as f:
            _analyse(plane, f)
            for start, blocks, depth in segments(tiling.shape.inner, s.shape[-1]):
                with ExitStack() as loops:
                    b, i, row = (
                        loops.enter_context(k.loop(name, extent))
                        for name, extent in (("b", blocks), ("i", depth), ("row", s.shape[5]))
                    )
                    v = loops.enter_context(k.loop("v", tiling.lanes, "vector"))
                    source = (n, tile.down, tile.across, b + start // s.shape[-1], f, row)
                    value = s[(*source, 0, i)], s[(*source, 1, i)]
                    place = (part, block, b * s.shape[-1] + i + start, f, row)
                    _accumulate(k, d, place, value, plane.columns.work, v)


def shares(tiling: Tiling) -> tuple[int, int]:
    """Into how many parts the batch and the rows of tiles are split: evenly, as few as suffice."""
    batch, rows = tiling.shape.image[0], tiling.grid[0]
    blocks = -(-tiling.shape.weights[0] // tiling.lanes)
    images, bands = (
        [n for n in range(1, PARTS + 1) if extent % n == 0] for extent in (batch, rows)
    )
    wanted = -(-PARTS // blocks)
    return min(product(images, bands), key=lambda parts: (abs(prod(parts) - wanted), parts[1]))


def sums_shape(tiling: Tiling) -> tuple[int, ...]:
    """[parts, blocks of outputs, inputs, columns, rows, re and im, lanes]."""
    blocks = -(-tiling.shape.weights[0] // tiling.lanes)
    inner = tiling.shape.weights[1]
    return (prod(shares(tiling)), blocks, inner, *tiling.spectrum, tiling.lanes)


@contextmanager
def _parts(frame: Frame, d: Buffer) -> Iterator[tuple[Affine, Affine, Affine, Tile]]:
    """Tasks for the parts and blocks; in each a loop over its share of the tiles."""
    k, tiling = frame.k, frame.tiling
    sharing = shares(tiling)
    whole = tiling.shape.image[0], tiling.grid[0]
    each = [extent // parts for extent, parts in zip(whole, sharing, strict=True)]
    with ExitStack() as loops:
        block = loops.enter_context(k.loop("o", d.shape[1], "parallel"))
        above = loops.enter_context(k.loop("p0", sharing[0], "parallel"))
        below = loops.enter_context(k.loop("p1", sharing[1], "parallel"))
        part = above * sharing[1] + below
        _clear(k, d, (part, block))
        n = loops.enter_context(k.loop("n", each[0])) + above * each[0]
        down = loops.enter_context(k.loop("t0", each[1])) + below * each[1]
        across = loops.enter_context(k.loop("t1", tiling.grid[1]))
        yield part, block, n, Tile(frame, down, across)


def _clear(k: KernelBuilder, d: Buffer, place: tuple[Affine, Affine]) -> None:
    with ExitStack() as loops:
        names = ("c", "f", "row", "half")
        at = [loops.enter_context(k.loop(*each)) for each in zip(names, d.shape[2:], strict=False)]
        v = loops.enter_context(k.loop("v", d.shape[-1], "vector"))
        k.store(d[(*place, *at, v)], k.constant(0, d.dtype))


def _load_gradient(
    frame: Frame, plane: Plane, g: Image, place: tuple[Affine, Affine], tile: Tile
) -> None:
    """The rows of a tile of g, zeros after its outputs."""
    rows, columns = frame.tiling.axes

    def cells(row: Affine, column: Affine, _: range, v: Affine) -> Expr:
        return g[(*place, *tile.result(row, column), v)]

    plane.transform_rows(range(rows.outputs), cells, columns.outputs)


def _analyse(plane: Plane, f: Affine) -> None:
    """A column's frequencies, in the plane's own buffer for columns."""
    work = plane.columns.work

    def store(row: Affine, v: Affine, value: Complex) -> None:
        for part in (0, 1):
            plane.k.store(work[row, part, v], value[part])

    plane.analyse(f, store)


def _accumulate(
    k: KernelBuilder, d: Buffer, place: tuple[Affine, ...], x: Complex, g: Buffer, v: Affine
) -> None:
    """d[place] += x * conj(g[row])."""
    re, im = g[place[-1], 0, v], g[place[-1], 1, v]
    old = [d[(*place, part, v)] for part in (0, 1)]
    k.store(d[(*place, 0, v)], fma(x[0], re, fma(x[1], im, old[0])))
    k.store(d[(*place, 1, v)], fma(x[1], re, fma(call("neg", x[0]), im, old[1])))


def restore(frame: Frame, d: Buffer, dw: Buffer) -> None:
    """Append the sum of the parts, transformed back; dw is plain."""
    k, tiling = frame.k, frame.tiling
    down, across = tiling.axes
    scale = k.constant(1 / (4 * down.points * across.points), frame.dtype)
    for first, count, width in segments(dw.shape[0], tiling.lanes):
        with k.loop("o", count, "parallel") as o, k.loop("c", dw.shape[1], "parallel") as c:
            plane, block = frame.plane(width), o + first // tiling.lanes
            with plane.each_column() as f:
                plane.synthesise(f, down.taps, _total(d, (block, c, f)))
            taps = k.local("taps", frame.dtype, (down.taps, across.taps, width))
            plane.restore_rows(down.taps, _keep(k, taps, scale))
            _deliver(k, taps, dw, (o * tiling.lanes + first, c), tiling.lanes)


def _keep(k: KernelBuilder, taps: Buffer, scale: Expr) -> Put:
    def put(row: Affine, column: Affine, value: Expr, v: Affine) -> None:
        with k.guard(column, taps.shape[1]):
            k.store(taps[row, column, v], value * scale)

    return put


def _deliver(
    k: KernelBuilder, taps: Buffer, dw: Buffer, first: tuple[Affine, Affine], lanes: int
) -> None:
    """From vectors of channels to vectors of neighbouring taps."""
    rows, columns, width = taps.shape
    for start, count, size in segments(columns, lanes):
        with ExitStack() as loops:
            row, chunk, lane = (
                loops.enter_context(k.loop(name, extent))
                for name, extent in (("row", rows), ("chunk", count), ("lane", width))
            )
            v = loops.enter_context(k.loop("v", size, "vector"))
            column = chunk * size + start + v
            at = (row, column)[-len(dw.shape) + 2 :]
            k.store(dw[(first[0] + lane, first[1], *at)], taps[row, column, lane])


def _total(d: Buffer, place: tuple[Affine, ...]) -> Source:
    """The sum over the parts, real and imaginary part exchanged."""

    def load(row: Affine, _: range, v: Affine) -> Point:
        def total(part: int) -> Expr:
            terms = [d[(number, *place, row, part, v)] for number in range(d.shape[0])]
            return reduce(operator.add, terms)

        return total(1), total(0)

    return load
