"""The weight gradient: upstream pixels times their patches, summed over all examples.

    columns[q, i, t] = x[i, q*s + t*d - lo]           gathered into the task's own memory
    dw[o, i, t]      = sum over n, q of g[o, q] * columns[q, i, t]

The lanes of a vector are elements of a patch, which lie side by side in dw too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from math import prod

from convc.algorithms.convolution import Convolution
from convc.algorithms.geometry import Lines
from convc.algorithms.im2col.tiles import COLUMNS, PIXELS, Tile, even_part, patch_index, tile_cuts
from convc.backend.target import ITEM_BYTES, Target
from convc.layout import Image
from convc.schedule import Nest, Point, Schedule, lower, register_tile, segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Load

SUMS = 256 << 10  # bytes of weight gradients that a task accumulates
OUTS = 256  # output channels of a task, at most
ALIASED = 1024  # bytes between planes that share cache sets

Pixels = Callable[[Affine, Affine, Affine], Load]


def sums_size(shape: Convolution, lanes: int, itemsize: int) -> tuple[int, int]:
    """Output and input channels of a task of the weight gradient."""
    taps = prod(shape.weights[2:])
    channels = min(shape.inner, lanes * max(1, 8 // taps))
    room = SUMS // (channels * taps * itemsize)
    return even_part(shape.out, min(OUTS, max(8, room))), channels


def weight_gradient(
    k: KernelBuilder, shape: Convolution, g: Image, x: Image, dw: Buffer, target: Target
) -> None:
    """Append ``dw[o, r]``, the sum over examples and pixels of g[o, q] * patch(q)[r].

    A task keeps its sums in scratch while it walks all tiles, so that they add up in one order.
    """
    (lines,) = shape.lines()
    lanes, itemsize = target.lanes(dw.dtype), ITEM_BYTES[dw.dtype]
    taps = prod(line.taps for line in lines)
    outs, channels = sums_size(shape, lanes, itemsize)
    for above, below in product(segments(shape.out, outs), segments(shape.inner, channels)):
        with ExitStack() as loops:
            group, out, inner = (
                loops.enter_context(k.loop(name, trips, "parallel")) * width + first
                for name, (first, trips, width) in zip(
                    "goi", ((0, shape.op.groups, 1), above, below), strict=True
                )
            )
            row = group * shape.out + out
            corner = (group * shape.inner + inner, inner * taps)
            _Sums(k, lines, row, corner, (above[2], below[2]), target).run(g, x, dw)


@dataclass(frozen=True)
class _Sums:
    """Weight gradients of some output by some input channels of one group."""

    k: KernelBuilder
    lines: Lines
    out: Affine
    corner: tuple[Affine, Affine]  # first input channel, first element of its patches
    size: tuple[int, int]
    target: Target

    @property
    def taps(self) -> tuple[int, ...]:
        return tuple(line.taps for line in self.lines)

    def run(self, g: Image, x: Image, dw: Buffer) -> None:
        depth = self.size[1] * prod(self.taps)
        sums = self.k.local("sums", dw.dtype, (self.size[0], depth))
        zero = self.k.constant(0, dw.dtype)
        self._each(sums, lambda o, r: (sums[o, r], zero))
        lanes = self.target.lanes(dw.dtype)
        most = max(1, min(PIXELS, COLUMNS // (depth * ITEM_BYTES[dw.dtype])))
        for cut in tile_cuts(self.lines, most):
            with ExitStack() as loops:
                n = loops.enter_context(self.k.loop("n", x.shape[0]))
                start, size = cut.enter(self.k, loops, "for")
                tile = Tile(self.k, self.lines, x, (n, self.corner[0]), start, size, lanes)
                columns = self.k.local("columns", dw.dtype, (*size, depth))
                self._gather(tile, columns)
                self._add(tile, self._upstream(tile, g), columns, sums)
        self._each(sums, lambda o, r: (dw[self.out + o, self.corner[1] + r], sums[o, r]))

    def _each(self, sums: Buffer, body: Callable[[Affine, Affine], tuple[Load, Expr]]) -> None:
        for first, count, width in segments(sums.shape[1], self.target.lanes(sums.dtype)):
            with (
                self.k.loop("o", sums.shape[0]) as o,
                self.k.loop("u", count) as u,
                self.k.loop("v", width, "vector") as v,
            ):
                self.k.store(*body(o, u * width + v + first))

    def _gather(self, tile: Tile, columns: Buffer) -> None:
        """Patches whole; the lanes are neighbouring taps on the last axis."""
        last = f"t{len(self.taps) - 1}"
        names = {f"t{axis}": extent for axis, extent in enumerate(self.taps[:-1])}
        for first, count, width in segments(self.taps[-1], tile.lanes):

            def copy(p: Point, _: Expr, first: int = first) -> tuple[Load, Expr]:
                full = {**p, last: p["u"] * tile.lanes + p["v"] + first}
                place = (p["q"], p["p"], patch_index(full, self.taps))
                return columns[place], tile.element(full, p["q"], p["p"])

            axes = {"q": tile.size[0], "p": tile.size[1], "i": self.size[1], **names}
            nest = Nest(columns.dtype, {**axes, "u": count, "v": width}, copy)
            lower(self.k, nest, Schedule((), (("i", 4),), ("v", width)))

    def _upstream(self, tile: Tile, g: Image) -> Pixels:
        """The upstream gradient at an output channel, row and column of a tile.

        A copy of it, where the planes of the channels lie so that they share cache sets.
        """

        def given(o: Affine, row: Affine, column: Affine) -> Load:
            return g[(tile.origin[0], self.out + o, *tile.position(row, column), 0)]

        dtype = g.buffer.dtype
        if prod(g.buffer.shape[2:]) * ITEM_BYTES[dtype] % ALIASED:
            return given
        rows = self.k.local("rows", dtype, (self.size[0], tile.size[0], tile.size[1] + tile.lanes))
        for first, count, width in tile.spans():

            def copy(p: Point, _: Expr, first: int = first) -> tuple[Load, Expr]:
                column = p["u"] * tile.lanes + p["v"] + first
                return rows[p["o"], p["q"], column], given(p["o"], p["q"], column)

            axes = {"o": self.size[0], "q": tile.size[0], "u": count, "v": width}
            lower(self.k, Nest(dtype, axes, copy), Schedule((), (("u", 4),), ("v", width)))
        return lambda o, row, column: rows[o, row, column]

    def _add(self, tile: Tile, upstream: Pixels, columns: Buffer, sums: Buffer) -> None:
        """sums[o, r] += sum over the tile of upstream[o, pixel] * columns[pixel, r]."""
        lanes = tile.lanes
        for first, count, width in segments(sums.shape[1], lanes):

            def at(p: Point, first: int = first) -> Affine:
                return p["u"] * lanes + p["v"] + first

            def update(p: Point, acc: Expr, at: Callable[[Point], Affine] = at) -> Expr:
                pixel = p["q"], p["p"]
                return fma(upstream(p["o"], *pixel), columns[(*pixel, at(p))], acc)

            def store(
                p: Point, acc: Expr, at: Callable[[Point], Affine] = at
            ) -> tuple[Load, Expr]:
                return sums[p["o"], at(p)], sums[p["o"], at(p)] + acc

            best = register_tile(self.target, (sums.shape[0],), count)
            tiles = (("o", best.pixels[0]), ("u", best.blocks))
            box = {"q": range(tile.size[0]), "p": range(tile.size[1])}
            axes = {"u": count, "o": sums.shape[0], "v": width}
            nest = Nest(sums.dtype, axes, store, update, (box,))
            lower(self.k, nest, Schedule((), tiles, ("v", width)))
