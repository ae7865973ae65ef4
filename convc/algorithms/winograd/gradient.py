"""The weight gradient by minimal filtering: F(taps, m) with tiles of the upstream gradient.

    dw = A^T (sum over tiles and images of (G g) * (B^T x)) A

Four kernels: transform x, transform g, one matrix product per point over all tiles, transform back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from convc.algorithms.base import Site
from convc.algorithms.convolution import Convolution
from convc.algorithms.unpack import packed_room, unpack
from convc.algorithms.winograd.tiling import IDENTITY
from convc.algorithms.winograd.toom_cook import Filtering, Matrix, filtering
from convc.algorithms.winograd.transform import flat, transformed
from convc.layout import Image
from convc.schedule import Nest, Point, Schedule, Segment, lower, register_tile, segments
from ir.loops import Affine, Buffer, Kernel, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Load, Scalar

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored

GROUP = 64  # channels of either side that a task multiplies while they lie in the cache


@dataclass(frozen=True)
class GradientTiling:
    """The upstream gradient cut into tiles of ``tile`` positions; the last ones overhang."""

    shape: Convolution
    filters: tuple[Filtering, ...]
    tile: tuple[int, ...]
    tiles: tuple[int, ...]
    lanes: int

    @staticmethod
    def of(shape: Convolution, size: int, lanes: int) -> GradientTiling:
        taps, out = shape.weights[2:], shape.result[2:]
        tile = tuple(size if tap > 1 else 1 for tap in taps)
        filters = (
            filtering(tap, m) if tap > 1 else IDENTITY for tap, m in zip(taps, tile, strict=True)
        )
        tiles = tuple(-(-n // m) for n, m in zip(out, tile, strict=True))
        return GradientTiling(shape, tuple(filters), tile, tiles, lanes)

    @property
    def points(self) -> tuple[int, ...]:
        return tuple(each.products for each in self.filters)

    @property
    def images(self) -> int:
        """Tiles of the whole batch."""
        return self.shape.image[0] * prod(self.tiles)

    def blocks(self, channels: int) -> int:
        return -(-channels // self.lanes)

    def gradient_halo(self) -> tuple[tuple[int, int], ...]:
        """How far the tiles overhang the upstream gradient."""
        axes = zip(self.tiles, self.tile, self.shape.result[2:], strict=True)
        return tuple((0, tiles * m - n) for tiles, m, n in axes)

    def image_halo(self) -> tuple[tuple[int, int], ...]:
        """How far the tiles read beyond the image."""
        axes = zip(
            self.tiles, self.tile, self.points, self.shape.op.pads, self.shape.image[2:],
            strict=True,
        )  # fmt: skip
        return tuple(
            (max(0, low), max(0, (tiles - 1) * m + points - low - n))
            for tiles, m, points, (low, _), n in axes
        )


def lower_gradient(site: Site, tiling: GradientTiling, into: Lowering) -> None:
    """Append the four kernels."""
    upstream, image = into.read(0), into.read(1)
    out, inner = tiling.shape.result[1], tiling.shape.image[1]
    points, lanes, dtype = prod(tiling.points), tiling.lanes, site.dtype

    def room(name: str, size: int) -> Stored:
        return into.temporary(f"{site.name}.{name}", dtype, points * size)

    gs = room("g", tiling.images * tiling.blocks(out) * lanes)
    xs = room("x", tiling.images * tiling.blocks(inner) * lanes)
    ms = room("products", inner * tiling.blocks(out) * lanes)
    pads = [low for low, _ in tiling.shape.op.pads]
    matrices = [each.weights for each in tiling.filters]
    into.run(_transform(tiling, upstream, matrices, [0] * len(pads), "g"), upstream, gs)
    matrices = [each.input for each in tiling.filters]
    into.run(_transform(tiling, image, matrices, pads, "x"), image, xs)
    into.run(_multiply(tiling, dtype, site), xs, gs, ms)
    dws, packed = packed_room(site, into)
    into.run(_transform_back(tiling, dtype, packed), ms, dws)
    unpack(site, dws, into)


def _transform(
    tiling: GradientTiling,
    source: Stored,
    matrices: Sequence[Matrix],
    offsets: Sequence[int],
    name: str,
) -> Kernel:
    """Tiles of an image to [points, channel blocks, images and tiles, lanes]."""
    k = KernelBuilder(f"winograd_{name}_tiles")
    x = source.image(k, "x")
    lanes = tiling.lanes
    shape = (prod(tiling.points), x.blocks, tiling.images, lanes)
    result = k.write("transformed", x.buffer.dtype, shape)
    with ExitStack() as loops:
        n = loops.enter_context(k.loop("n", x.shape[0], "parallel"))
        c = loops.enter_context(k.loop("c", x.blocks, "parallel"))
        number, at = n, []
        for axis, count in enumerate(tiling.tiles):
            tile = loops.enter_context(k.loop(f"t{axis}", count))
            number = number * count + tile
            at.append(tile * tiling.tile[axis] - offsets[axis])
        v = loops.enter_context(k.loop("v", lanes, "vector"))
        values = transformed(k, matrices, _cells(x, n, c, at, v), x.buffer, lanes, v)
        for point, value in enumerate(values):
            k.store(result[point, c, number, v], value)
    return k.build()


def _cells(
    x: Image, n: Affine, c: Affine, at: Sequence[Affine], v: Affine
) -> Callable[[tuple[int, ...]], Expr]:
    return lambda offset: x[(n, c, *(a + i for a, i in zip(at, offset, strict=True)), v)]


def _multiply(tiling: GradientTiling, dtype: Scalar, site: Site) -> Kernel:
    """products[c, k, point] = sum over tiles of x[point, tile, c] * g[point, tile, k]."""
    k = KernelBuilder("winograd_gradient")
    points, lanes, images = prod(tiling.points), tiling.lanes, tiling.images
    inner, out_blocks = tiling.shape.image[1], tiling.blocks(tiling.shape.result[1])
    x = k.read("x", dtype, (points, tiling.blocks(inner), images, lanes))
    g = k.read("g", dtype, (points, out_blocks, images, lanes))
    m = k.write("products", dtype, (inner, out_blocks, points, lanes))
    for below in segments(inner, lanes):
        for above in segments(out_blocks, max(1, GROUP // lanes)):
            nest = _product_nest(x, g, m, below, above)
            chosen = register_tile(site.target, (below[2],), above[2])
            tile = (("i", chosen.pixels[0]), ("o", chosen.blocks))
            lower(k, nest, Schedule(("x", "g", "b"), tile, ("v", lanes)))
    return k.build()


def _product_nest(x: Buffer, g: Buffer, m: Buffer, below: Segment, above: Segment) -> Nest:
    """A cut of the input channels by a cut of the groups of output blocks."""
    (start, blocks, depth), (first, groups, width) = below, above
    points, _, images, lanes = g.shape

    def block(p: Point) -> Affine:
        return p["g"] * width + p["o"] + first

    def update(p: Point, acc: Expr) -> Expr:
        left = x[p["x"], p["b"] + start // lanes, p["t"], p["i"]]
        return fma(left, g[p["x"], block(p), p["t"], p["v"]], acc)

    def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
        return m[p["b"] * lanes + p["i"] + start, block(p), p["x"], p["v"]], acc

    axes = {"x": points, "g": groups, "b": blocks, "o": width, "i": depth, "v": lanes}
    return Nest(m.dtype, axes, store, update, ({"t": range(images)},))


def _transform_back(tiling: GradientTiling, dtype: Scalar, packed: tuple[int, ...]) -> Kernel:
    """dw[out block, c, *taps, lanes] of the products."""
    k = KernelBuilder("winograd_gradient_back")
    blocks, inner, *taps, lanes = packed
    m = k.read("products", dtype, (inner, blocks, prod(tiling.points), lanes))
    dw = k.write("dw", dtype, packed)
    matrices = [each.output for each in tiling.filters]
    with (
        k.loop("o", blocks, "parallel") as o,
        k.loop("c", inner, "parallel") as c,
        k.loop("v", lanes, "vector") as v,
    ):
        source = _products(m, tiling.points, c, o, v)
        values = transformed(k, matrices, source, m, lanes, v)
        for place, value in zip(product(*map(range, taps)), values, strict=True):
            k.store(dw[(o, c, *place, v)], value)
    return k.build()


def _products(
    m: Buffer, points: tuple[int, ...], c: Affine, block: Affine, v: Affine
) -> Callable[[tuple[int, ...]], Expr]:
    return lambda point: m[c, block, flat(point, points), v]
