"""Weights times the patches of a tile: the forward convolution and the input gradient.

    columns[i, t, q] = x[i, q*s + t*d - lo]           gathered into the task's own memory
    y[o, q]          = sum over i, t of w[o, i, t] * columns[i, t, q]

The lanes of a vector are pixels, numbered through the tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from math import prod

from convc.algorithms.epilogue import Step
from convc.algorithms.im2col.families import Product
from convc.algorithms.im2col.tiles import Tile, patch_index, tile_cuts
from convc.backend.target import ITEM_BYTES, Target
from convc.layout import Image
from convc.schedule import Nest, Point, Schedule, lower, register_tile, segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Index, Load

OUTS = 128  # output channels of a task, which each gather anew


def correlate(
    k: KernelBuilder,
    part: Product,
    x: Image,
    w: Buffer,
    y: Image,
    finish: Step,
    target: Target,
) -> None:
    """Append ``y = finish(w times the patches of x)`` for the cells of one product."""
    lanes = target.lanes(x.buffer.dtype)
    cuts = tile_cuts(part.lines, part.pixels(ITEM_BYTES[x.buffer.dtype], lanes))
    for cut, (first, chunks, width) in product(cuts, segments(part.outs, OUTS)):
        with ExitStack() as loops:
            n = loops.enter_context(k.loop("n", x.shape[0], "parallel"))
            g = loops.enter_context(k.loop("g", part.groups, "parallel"))
            start, size = cut.enter(k, loops, "parallel")
            out = loops.enter_context(k.loop("o", chunks, "parallel")) * OUTS + first
            tile = Tile(k, part.lines, x, (n, g * part.inner), start, size, lanes)
            _Rows(tile, part, g, out, width).run(w, y, finish, target)


@dataclass(frozen=True)
class _Rows:
    """Some output channels of one group, for the pixels of a tile."""

    tile: Tile
    part: Product
    group: Affine
    out: Affine
    outs: int

    def run(self, w: Buffer, y: Image, finish: Step, target: Target) -> None:
        k, part, tile = self.tile.k, self.part, self.tile
        *outer, last = part.classes
        for first, trips, together in segments(last, max(1, OUTS // part.outs)):
            with ExitStack() as loops:
                named = [(f"z{axis}", count) for axis, count in enumerate((*outer, trips))]
                *classes, z = (loops.enter_context(k.loop(*each)) for each in named)
                classes.append(z * together + first)
                width = -(-tile.pixels // tile.lanes) * tile.lanes
                results = k.local("results", y.buffer.dtype, (together * self.outs, width))
                self._clear(results)
                self._products(w, results, part.row(self.group, classes, self.out), target)
                self._finish(results, y, classes, together, finish)

    def _products(self, w: Buffer, results: Buffer, row: Affine, target: Target) -> None:
        """Gather and multiply some input channels at a time."""
        taps, pixels = prod(self.part.taps), results.shape[1]
        blocks = segments(self.part.inner, self.part.channels(pixels, ITEM_BYTES[w.dtype]))
        for first, trips, channels in blocks if taps else ():
            with self.tile.k.loop("b", trips) as b:
                channel = b * channels + first
                columns = self.tile.k.local("columns", w.dtype, (channels * taps, pixels))
                self._gather(columns, channel, channels)
                self._multiply(columns, w, results, row + channel * taps, target)

    def _clear(self, results: Buffer) -> None:
        k, (outs, pixels) = self.tile.k, results.shape
        with (
            k.loop("o", outs) as o,
            k.loop("u", pixels // self.tile.lanes) as u,
            k.loop("v", self.tile.lanes, "vector") as v,
        ):
            k.store(results[o, u * self.tile.lanes + v], k.constant(0, results.dtype))

    def _gather(self, columns: Buffer, channel: Affine, channels: int) -> None:
        tile, taps = self.tile, self.part.taps
        names = {f"t{axis}": extent for axis, extent in enumerate(taps)}
        for first, count, width in tile.spans():

            def copy(p: Point, _: Expr, first: int = first) -> tuple[Load, Expr]:
                column = p["u"] * tile.lanes + p["v"] + first
                place = p["q"] * tile.size[1] + column
                source = tile.element({**p, "i": p["i"] + channel}, p["q"], column)
                return columns[patch_index(p, taps), place], source

            axes = {"i": channels, **names, "q": tile.size[0], "u": count, "v": width}
            nest = Nest(columns.dtype, axes, copy)
            lower(tile.k, nest, Schedule((), (("q", 4), ("u", 4)), ("v", width)))

    def _multiply(
        self, columns: Buffer, w: Buffer, results: Buffer, row: Affine, target: Target
    ) -> None:
        """results[o, pixel] += sum over r of w[row of o, r] * columns[r, pixel].

        The lanes beyond the last pixel hold anything and are not read again.
        """
        lanes, (outs, pixels) = self.tile.lanes, results.shape

        def update(p: Point, acc: Expr) -> Expr:
            weight = w[row + p["o"] * self.part.depth + p["r"],]
            return fma(weight, columns[p["r"], p["u"] * lanes + p["v"]], acc)

        def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
            element = results[p["o"], p["u"] * lanes + p["v"]]
            return element, element + acc

        axes = {"o": outs, "u": pixels // lanes, "v": lanes}
        boxes = ({"r": range(columns.shape[0])},)
        best = register_tile(target, (outs,), pixels // lanes)
        tile = (("o", best.pixels[0]), ("u", best.blocks))
        nest = Nest(results.dtype, axes, store, update, boxes)
        lower(self.tile.k, nest, Schedule((), tile, ("v", lanes)))

    def _finish(
        self, results: Buffer, y: Image, classes: Sequence[Affine], together: int, finish: Step
    ) -> None:
        tile = self.tile
        for first, count, width in tile.spans():

            def store(p: Point, _: Expr, first: int = first) -> tuple[Load, Expr]:
                column = p["u"] * tile.lanes + p["v"] + first
                here = (*classes[:-1], classes[-1] + p["z"])
                ways = zip(self.part.families, tile.position(p["q"], column), here, strict=True)
                at = (family.out_at(q, z) for family, q, z in ways)
                channel = self.group * self.part.outs + self.out + p["o"]
                index: tuple[Index, ...] = (tile.origin[0], channel, *at, 0)
                value = results[p["z"] * self.outs + p["o"], p["q"] * tile.size[1] + column]
                return y[index], finish(value, index)

            axes = {"z": together, "o": self.outs, "q": tile.size[0], "u": count, "v": width}
            lower(tile.k, Nest(y.buffer.dtype, axes, store), Schedule((), (), ("v", width)))
