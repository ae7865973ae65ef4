"""The forward convolution and the input gradient: transform, multiply, transform back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from math import prod

from convc.algorithms.epilogue import Output
from convc.algorithms.winograd.tiling import Tiling
from convc.algorithms.winograd.transform import flat, transformed
from convc.backend.target import Target
from convc.layout import Image
from convc.schedule import Nest, Point, Schedule, Segment, lower, register_tile, segments
from ir.loops import Affine, Buffer, Kernel, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Load, Scalar

TILES_AHEAD = 4  # of the input, that are prefetched


def _odd(vectors: int) -> int:
    """So many vectors, or one more: rows an even number of them apart share few sets of a cache."""
    return vectors | 1


def weights_kernel(tiling: Tiling, dtype: Scalar) -> Kernel:
    """Weights transformed to [points, out blocks, phases, C, lanes]; missing lanes are zero."""
    k = KernelBuilder("winograd_weights")
    w = k.read("w", dtype, tiling.shape.weights)
    u = k.write("u", dtype, tiling.weight_shape)
    for cut in segments(tiling.shape.out, tiling.lanes):
        _transform_weights(k, tiling, w, u, cut)
    return k.build()


def _transform_weights(
    k: KernelBuilder, tiling: Tiling, w: Buffer, u: Buffer, cut: Segment
) -> None:
    first, count, width = cut
    phases = list(product(*(range(axis.phases) for axis in tiling.axes)))
    matrices = [each.weights for each in tiling.filters]
    with k.loop("o", count, "parallel") as o, k.loop("c", tiling.shape.inner, "parallel") as c:
        block = o + first // tiling.lanes
        with k.loop("v", width, "vector") as v:
            channel = o * tiling.lanes + v + first
            rows = (c, channel) if tiling.shape.transposed else (channel, c)
            for phase, at in enumerate(phases):
                source = _taps(k, tiling, w, rows, at)
                for number, value in enumerate(transformed(k, matrices, source, w, width, v)):
                    k.store(u[number, block, phase, c, v], value)
        if width < tiling.lanes:
            zero = k.constant(0, w.dtype)
            with k.loop("z", tiling.lanes - width, "vector") as v:
                for number, phase in product(range(u.shape[0]), range(len(phases))):
                    k.store(u[number, block, phase, c, v + width], zero)


def _taps(
    k: KernelBuilder,
    tiling: Tiling,
    w: Buffer,
    rows: tuple[Affine, Affine],
    phase: tuple[int, ...],
) -> Callable[[tuple[int, ...]], Expr]:
    """The weights of one phase; taps beyond the kernel are zero."""

    def source(at: tuple[int, ...]) -> Expr:
        places = [axis.weight_at(p, t) for axis, p, t in zip(tiling.axes, phase, at, strict=True)]
        inside = [place for place in places if place is not None]
        return w[(*rows, *inside)] if len(inside) == len(places) else k.constant(0, w.dtype)

    return source


def multiply_blocks(
    k: KernelBuilder,
    tiling: Tiling,
    x: Image,
    u: Buffer,
    output: Output,
    target: Target,
) -> None:
    """One nest for each shape of block; a task is one block of tiles of one image, and some
    output channels: all of them, where there are blocks enough to share out."""
    sizes = tiling.block(4 if x.buffer.dtype == "f32" else 8)
    cuts = [segments(tiles, size) for tiles, size in zip(tiling.tiles, sizes, strict=True)]
    blocks = prod(sum(count for _, count, _ in cut) for cut in cuts) * tiling.interleaved
    groups = segments(tiling.out_blocks, tiling.share(x.shape[0] * blocks))
    for (first_out, group_count, outs), *cut in product(groups, *cuts):
        with ExitStack() as loops:
            group = loops.enter_context(k.loop("g", group_count, "parallel"))
            n = loops.enter_context(k.loop("n", x.shape[0], "parallel"))
            starts = tuple(
                loops.enter_context(k.loop(f"b{axis}", count, "parallel")) * width + first
                for axis, (first, count, width) in enumerate(cut)
            )
            phases = tuple(
                loops.enter_context(k.loop(f"d{number}", axis.pitch, "parallel"))
                for number, axis in enumerate(tiling.axes)
            )
            block = _Block(k, tiling, n, starts, tuple(width for *_, width in cut), phases)
            block.run(x, u, output, target, group * outs + first_out, outs)


@dataclass(frozen=True)
class _Block:
    """Some tiles of one image: the first one's number on each axis, and how many."""

    k: KernelBuilder
    tiling: Tiling
    n: Affine
    start: tuple[Affine, ...]
    size: tuple[int, ...]
    phase: tuple[Affine, ...]

    def _cells(
        self, tile: Sequence[Affine], offset: Sequence[int], size: Sequence[int]
    ) -> list[Affine]:
        """The number q of a cell of a tile of that size; interleaved where the kernel is
        dilated."""
        axes = zip(tile, size, offset, self.tiling.axes, self.phase, strict=True)
        return [(t * m + i) * axis.pitch + phase for t, m, i, axis, phase in axes]

    def run(
        self,
        x: Image,
        u: Buffer,
        output: Output,
        target: Target,
        first_out: Affine,
        outs: int,
    ) -> None:
        """Compute ``outs`` blocks of output channels from ``first_out``."""
        k, tiling = self.k, self.tiling
        tiles, points = prod(self.size), prod(tiling.points)
        dtype, lanes = x.buffer.dtype, tiling.lanes
        v = k.local("transformed", dtype, (points, _odd(tiles * self._depth // lanes) * lanes))
        self._transform_input(x, v)
        chosen = register_tile(target, (tiles,), outs)
        for first, count, width in segments(outs, chosen.blocks):
            m = k.local("products", dtype, (points, _odd(tiles * width), lanes))
            with k.loop("o", count) as o:
                block = first_out + (o * chosen.blocks + first)
                self._multiply(v, u, m, block, width, chosen.pixels[0])
                self._transform_output(m, output, block, width)

    def _tile_loops(self, loops: ExitStack) -> tuple[list[Affine], Affine]:
        """Loops over the block's tiles: the tile on each axis, its number in the block."""
        number, at = Affine(), []
        for axis, size in enumerate(self.size):
            step = loops.enter_context(self.k.loop(f"t{axis}", size))
            number = number * size + step
            at.append(self.start[axis] + step)
        return at, number

    @property
    def _depth(self) -> int:
        """Elements of a transformed tile at one point: all phases, all input channels."""
        return self.tiling.phases * self.tiling.in_blocks * self.tiling.lanes

    def _transform_input(self, x: Image, tiles: Buffer) -> None:
        """tiles[point, tile, phase, channel], the last three in one axis."""
        k, tiling, lanes = self.k, self.tiling, self.tiling.lanes
        with ExitStack() as loops:
            c = loops.enter_context(k.loop("c", tiling.in_blocks))
            at, number = self._tile_loops(loops)
            phase, starts = Affine(), []
            for axis_number, axis in enumerate(tiling.axes):
                p = loops.enter_context(k.loop(f"f{axis_number}", axis.phases))
                phase = phase * axis.phases + p
                starts.append(p * axis.shift + axis.base)
            v = loops.enter_context(k.loop("v", lanes, "vector"))

            def source(point: tuple[int, ...], ahead: int = 0) -> Load:
                tile = (*at[:-1], at[-1] + ahead)
                cells = zip(
                    self._cells(tile, point, tiling.outputs), tiling.axes, starts, strict=True
                )
                places = (q * axis.scale + start for q, axis, start in cells)
                return x[(self.n, c, *places, v)]

            matrices = [each.input for each in tiling.filters]
            results = transformed(k, matrices, source, tiles, lanes, v)
            place = (number * tiling.phases + phase) * tiling.in_blocks + c
            for point, value in enumerate(results):
                k.store(tiles[point, place * lanes + v], value)
            *rows, columns = map(range, tiling.points)
            for cell in product(*rows, columns[-tiling.outputs[-1] :]):  # not the overlap
                k.prefetch(source(cell, TILES_AHEAD))

    def _multiply(
        self, v: Buffer, u: Buffer, m: Buffer, block: Affine, width: int, wide: int
    ) -> None:
        """m[point] = v[point] times u[point], tiles by ``width`` vectors of output channels; of the
        tiles, ``wide`` at a time."""
        tiling, points = self.tiling, u.shape[0]

        def update(p: Point, acc: Expr) -> Expr:
            weights = u[p["x"], block + p["o"], p["f"], p["c"], p["v"]]
            place = p["t"] * self._depth + p["f"] * (tiling.in_blocks * tiling.lanes) + p["c"]
            return fma(v[p["x"], place], weights, acc)

        def ahead(k: KernelBuilder, p: Point) -> None:
            with (
                k.loop("o", width, "unroll") as o,
                k.loop("v", tiling.lanes, "vector") as v,
            ):
                k.prefetch(u[p["x"] + 1, block + o, p["f"], p["c"], v])

        def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
            return m[p["x"], p["t"] * width + p["o"], p["v"]], acc

        axes = {"x": points, "t": prod(self.size), "o": width, "v": tiling.lanes}
        box = {"f": range(tiling.phases), "c": range(tiling.shape.inner)}
        nest = Nest(m.dtype, axes, store, update, (box,), ahead=("c", ahead))
        lower(self.k, nest, Schedule((), (("t", wide), ("o", width)), ("v", tiling.lanes)))

    def _transform_output(self, m: Buffer, output: Output, block: Affine, width: int) -> None:
        k, tiling, lanes = self.k, self.tiling, self.tiling.lanes
        shape = tiling.outputs
        with ExitStack() as loops:
            at, number = self._tile_loops(loops)
            o = loops.enter_context(k.loop("p", width))
            tile = k.local("tile", m.dtype, (prod(shape), lanes))
            with k.loop("v", lanes, "vector") as v:

                def source(point: tuple[int, ...]) -> Expr:
                    return m[flat(point, tiling.points), number * width + o, v]

                matrices = [each.output for each in tiling.filters]
                for place, value in enumerate(transformed(k, matrices, source, m, lanes, v)):
                    k.store(tile[place, v], value)
            self._store(tile, at, block + o, output)

    def _store(self, tile: Buffer, at: Sequence[Affine], channels: Affine, output: Output) -> None:
        """Those outputs of a tile that are some of the image, or of the windows that are."""
        k, tiling = self.k, self.tiling
        window = output.window(len(tiling.axes))
        most = [m // w for m, w in zip(tiling.outputs, window, strict=True)]
        for offset in product(*map(range, most)):
            cells = self._cells(at, offset, most)
            with ExitStack() as inside:
                for cell, axis, w in zip(cells, tiling.axes, window, strict=True):
                    inside.enter_context(k.guard(cell, axis.count // w))
                v = inside.enter_context(k.loop("v", tiling.lanes, "vector"))

                def places(cells: Sequence[Affine], v: Affine = v) -> tuple[Affine, ...]:
                    pairs = zip(cells, tiling.axes, strict=True)
                    return (self.n, channels, *(q * a.out[1] + a.out[0] for q, a in pairs), v)

                values = []
                for within in product(*map(range, window)):
                    steps = zip(offset, window, within, strict=True)
                    place = flat([o * w + d for o, w, d in steps], tiling.outputs)
                    own = zip(cells, window, within, strict=True)
                    index = places([q * w + d for q, w, d in own])
                    values.append(output.finish(tile[place, v], index))
                k.store(output.y[places(cells)], output.pooled(k, values))
