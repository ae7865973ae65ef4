"""Few channels in and out: the lanes are neighbouring tiles of one channel, from end to end.

Reading a row of some tiles at once gathers elements that lie apart; results are put in order in
a small buffer and leave it as vectors of neighbouring outputs. Weights are broadcast.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from convc.algorithms.epilogue import Step
from convc.algorithms.fft.butterfly import Complex
from convc.algorithms.fft.frame import Frame, Tile
from convc.algorithms.fft.passes import Source
from convc.algorithms.fft.plane import Plane
from convc.layout import Image
from convc.schedule import Segment, segments
from ir.loops import Affine, Buffer
from ir.loops.builder import call, fma
from ir.loops.nodes import Expr, Index


def correlate(frame: Frame, x: Image, u: Buffer, y: Image, finish: Step) -> None:
    """Append y = finish(x correlated with w), both images plain; ``u`` are the spectra of w."""
    k, tiling = frame.k, frame.tiling
    for first, count, width in _blocks(tiling.axes[1].tiles, tiling.lanes):
        with ExitStack() as loops:
            extents = {"n": x.shape[0], "t0": tiling.grid[0], "t1": count}
            n, down, across = (
                loops.enter_context(k.loop(name, extent, "parallel"))
                for name, extent in extents.items()
            )
            tile = Tile(frame, down, across * width + first)
            plane = frame.plane(width)
            sums = k.local("sums", frame.dtype, (y.shape[1], *tiling.spectrum, width))
            _clear(frame, sums)
            with k.loop("c", x.shape[1]) as c:
                _add(frame, plane, x, (n, c), tile, u, sums)
            with k.loop("o", y.shape[1]) as o:
                ends = first + count * width == tiling.axes[1].tiles
                _restore(plane, tiling.axes[0].outputs, sums, o)
                _deliver(plane, tile, y, (n, o), finish, ends)


def _blocks(tiles: int, lanes: int) -> list[Segment]:
    """Whole vectors of tiles; the one with the last tile by itself."""
    *whole, (first, count, width) = segments(tiles, lanes)
    before = [(first, count - 1, width)] if count > 1 else []
    return [*whole, *before, (first + (count - 1) * width, 1, width)]


def _clear(frame: Frame, sums: Buffer) -> None:
    k = frame.k
    with ExitStack() as loops:
        names = ("o", "f", "row", "part")
        at = [loops.enter_context(k.loop(*each)) for each in zip(names, sums.shape, strict=False)]
        v = loops.enter_context(k.loop("v", sums.shape[-1], "vector"))
        k.store(sums[(*at, v)], k.constant(0, sums.dtype))


def _add(
    frame: Frame,
    plane: Plane,
    x: Image,
    place: tuple[Affine, Affine],
    tile: Tile,
    u: Buffer,
    sums: Buffer,
) -> None:
    """One more input channel: its spectra times the weights of all outputs."""
    k, outs = frame.k, sums.shape[0]

    def cells(row: Affine, column: Affine, _: range, v: Affine) -> Expr:
        here = replace(tile, across=tile.across + v)
        return x[(*place, *here.source(row, column), 0)]

    plane.transform_rows(frame.tiling.axes[0].inside, cells)
    with plane.each_column() as f:

        def store(row: Affine, v: Affine, value: Complex) -> None:
            for o in range(outs):
                block, lane = divmod(o, u.shape[-1])
                a, b = (u[block, f, row, place[1], part, lane] for part in (0, 1))
                re, im = (sums[o, f, row, part, v] for part in (0, 1))
                k.store(re, fma(call("neg", value[1]), b, fma(value[0], a, re)))
                k.store(im, fma(value[1], a, fma(value[0], b, im)))

        plane.analyse(f, store)


def _restore(plane: Plane, rows: int, sums: Buffer, o: Affine) -> None:
    """The columns of one output."""

    def source(f: Affine) -> Source:
        return lambda row, _, v: (sums[o, f, row, 1, v], sums[o, f, row, 0, v])

    with plane.each_column() as f:
        plane.synthesise(f, rows, source(f))


def _deliver(
    plane: Plane, tile: Tile, y: Image, place: tuple[Affine, Affine], finish: Step, ends: bool
) -> None:
    """Rows of all tiles to a buffer, and from there tile by tile; at the end one is narrower."""
    k, (down, across), lanes = plane.k, tile.frame.tiling.axes, plane.lanes
    buffer = k.local("outputs", y.buffer.dtype, (down.outputs, across.outputs, lanes))

    def put(row: Affine, column: Affine, value: Expr, v: Affine) -> None:
        with k.guard(column, across.outputs):
            k.store(buffer[row, column, v], value)

    plane.restore_rows(down.outputs, put)
    with k.loop("row", down.outputs) as row, k.guard(tile.down * down.outputs + row, down.count):
        last = range(lanes - 1, lanes) if ends else range(0)
        rest = across.outputs - across.overhang
        for part, width in ((range(lanes - len(last)), across.outputs), (last, rest)):
            for segment in segments(width, tile.frame.tiling.lanes) if part else ():
                _copy(tile, buffer, y, (*place, row), (part, segment), finish)


def _copy(
    tile: Tile,
    buffer: Buffer,
    y: Image,
    place: tuple[Affine, Affine, Affine],
    cut: tuple[range, Segment],
    finish: Step,
) -> None:
    """Some columns of a row, of some tiles."""
    k, (n, o, row), (lanes, (start, count, width)) = tile.frame.k, place, cut
    with (
        k.loop("lane", lanes) as lane,
        k.loop("chunk", count) as chunk,
        k.loop("v", width, "vector") as v,
    ):
        column = chunk * width + start + v
        here = replace(tile, across=tile.across + lane)
        index: tuple[Index, ...] = (n, o, *here.result(row, column), 0)
        k.store(y[index], finish(buffer[row, column, lane], index))
