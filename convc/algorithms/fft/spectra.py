"""Kernels that compute spectra: of weights, once, and of the tiles of an image."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from convc.algorithms.fft.butterfly import Complex
from convc.algorithms.fft.frame import Frame, Tile
from convc.algorithms.fft.plane import Cells
from convc.algorithms.fft.tiling import Tiling
from convc.layout import Image
from convc.schedule import Segment, segments
from ir.loops import Affine, Buffer, Kernel
from ir.loops.builder import call
from ir.loops.nodes import Expr, Scalar

if TYPE_CHECKING:
    from convc.program import Stored


def weights_shape(tiling: Tiling) -> tuple[int, ...]:
    """[blocks of outputs, columns, rows, inputs, re and im, lanes]."""
    (blocks, inner), (columns, rows, parts) = tiling.weight_blocks, tiling.spectrum
    return (blocks, columns, rows, inner, parts, tiling.lanes)


def weights_kernel(tiling: Tiling, dtype: Scalar) -> Kernel:
    """Conjugate spectra of plain weights, scaled so that nothing else needs to be."""
    frame = Frame.begin("fft_weights", tiling, dtype)
    w = frame.k.read("w", dtype, tiling.shape.weights)
    u = frame.k.write("u", dtype, weights_shape(tiling))
    channels = tiling.shape.weights[0] if tiling.depthwise else tiling.shape.out
    for cut in segments(channels, tiling.lanes):
        _weights(frame, w, u, cut)
    return frame.k.build()


def _weights(frame: Frame, w: Buffer, u: Buffer, cut: Segment) -> None:
    (first, count, width), lanes = cut, frame.tiling.lanes
    k, (down, across) = frame.k, frame.tiling.axes
    scale = k.constant(1 / (4 * down.points * across.points), frame.dtype)
    inner = u.shape[3]
    with k.loop("o", count, "parallel") as o, k.loop("c", inner, "parallel") as c:
        block, plane = o + first // lanes, frame.plane(width)
        cells = _taps(frame, w, o * lanes + first, c)
        plane.transform_rows(range(down.taps), cells, across.taps)
        with plane.each_column() as f:

            def store(row: Affine, v: Affine, value: Complex) -> None:
                k.store(u[block, f, row, c, 0, v], value[0] * scale)
                k.store(u[block, f, row, c, 1, v], call("neg", value[1]) * scale)

            plane.analyse(f, store)
        if width < lanes:
            _blank(frame, u, block, c, width)


def _taps(frame: Frame, w: Buffer, channel: Affine, inner: Affine) -> Cells:
    tiling = frame.tiling

    def cells(row: Affine, column: Affine, _: range, v: Affine) -> Expr:
        at = [row, column][-len(tiling.shape.op.stride) :]
        if not tiling.flip:
            return w[(channel + v, inner, *at)]
        pair = (channel + v, inner) if tiling.depthwise else (inner, channel + v)
        taps = tiling.shape.weights[2:]
        return w[(*pair, *(tap - 1 - i for tap, i in zip(taps, at, strict=True)))]

    return cells


def _blank(frame: Frame, u: Buffer, block: Affine, c: Affine, width: int) -> None:
    k, zero = frame.k, frame.k.constant(0, frame.dtype)
    _, columns, rows, _, parts, lanes = u.shape
    with (
        k.loop("f", columns) as f,
        k.loop("row", rows) as row,
        k.loop("part", parts) as part,
        k.loop("z", lanes - width, "vector") as v,
    ):
        k.store(u[block, f, row, c, part, v + width], zero)


def image_shape(tiling: Tiling, block: int) -> tuple[int, ...]:
    """[batch, *tiles, blocks of channels, columns, rows, re and im, channels]."""
    batch, channels = tiling.shape.read[:2]
    return (batch, *tiling.grid, -(-channels // block), *tiling.spectrum, block)


def image_kernel(tiling: Tiling, source: Stored) -> Kernel:
    """Spectra of all tiles, twice as large as they should be.

    The lanes are channels where the image has them in blocks, otherwise neighbouring tiles.
    """
    frame = Frame.begin("fft_image", tiling, source.dtype)
    k, block = frame.k, source.layout.block
    x = source.image(k, "x")
    s = k.write("spectra", source.dtype, image_shape(tiling, block))
    rows, columns = tiling.grid
    for first, count, width in [(0, columns, 1)] if block > 1 else segments(columns, tiling.lanes):
        with ExitStack() as loops:
            extents = {"n": x.shape[0], "c": x.blocks, "t0": rows, "t1": count}
            n, c, down, across = (
                loops.enter_context(k.loop(name, extent, "parallel"))
                for name, extent in extents.items()
            )
            first_tile = Tile(frame, down, across * width + first)
            _image(frame, x, s, (n, c), first_tile, block if block > 1 else width)
    return k.build()


def _image(
    frame: Frame, x: Image, s: Buffer, plane_of: tuple[Affine, Affine], first: Tile, width: int
) -> None:
    n, c = plane_of
    blocked = x.layout.block > 1

    def cells(row: Affine, column: Affine, _: range, v: Affine) -> Expr:
        tile = first if blocked else replace(first, across=first.across + v)
        return x[(n, c, *tile.source(row, column), v if blocked else 0)]

    plane = frame.plane(width)
    plane.transform_rows(frame.tiling.axes[0].inside, cells)
    with plane.each_column() as f:

        def store(row: Affine, v: Affine, value: Complex) -> None:
            across = first.across if blocked else first.across + v
            place = (n, first.down, across, c, f, row)
            for part in (0, 1):
                frame.k.store(s[(*place, part, v if blocked else 0)], value[part])

        plane.analyse(f, store)
