"""Convolution by minimal filtering (Winograd 1980; Lavin and Gray 2016).

The output is cut into tiles. Each tile of the input is transformed, the products over all input
channels are one small matrix product per point of the transform, and each tile of the output is
transformed back: for F(4, 3) in two dimensions 36 products do the work of 144. Serves the forward
direction, and the input gradient, which at unit stride is the same with flipped weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import prod
from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.convolution import Convolution
from convc.algorithms.epilogue import Epilogue, Step
from convc.algorithms.toom_cook import Filtering, Matrix, filtering
from convc.backend.target import Target
from convc.cost import peak_flops, stream_bytes
from convc.layout import Image, zero_halo
from convc.schedule import Nest, Point, Schedule, Segment, lower, register_tile, segments
from ir.loops import Affine, Buffer, Kernel, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Load
from ir.ops import Conv, ConvInputGrad

if TYPE_CHECKING:
    from convc.lowering import Lowering, Stored

CACHE = 400_000  # bytes of transformed input that a block may keep beside the weights in L2
LARGEST = 8  # points per axis: beyond, rounding errors grow too fast


@dataclass(frozen=True)
class Tiling:
    """A convolution cut into tiles: per axis the filtering, the tiles, where the first one reads.

    ``flip``: the weights run backwards along the axis, as they do in the input gradient.
    """

    shape: Convolution
    filters: tuple[Filtering, ...]
    outputs: tuple[int, ...]
    tiles: tuple[int, ...]
    start: tuple[int, ...]
    flip: bool
    lanes: int

    @staticmethod
    def of(shape: Convolution, outputs: int, lanes: int) -> Tiling:
        (lines,) = shape.lines()
        taps = shape.weights[2:]
        each = tuple(outputs if tap > 1 else 1 for tap in taps)
        filters = (
            filtering(m, tap) if tap > 1 else IDENTITY for m, tap in zip(each, taps, strict=True)
        )
        return Tiling(
            shape,
            tuple(filters),
            each,
            tuple(-(-line.count // m) for line, m in zip(lines, each, strict=True)),
            tuple(line.input[0] + min(0, line.input[2] * (line.taps - 1)) for line in lines),
            shape.transposed,
            lanes,
        )

    @property
    def points(self) -> tuple[int, ...]:
        return tuple(each.products for each in self.filters)

    @property
    def out_blocks(self) -> int:
        return -(-self.shape.out // self.lanes)

    @property
    def in_blocks(self) -> int:
        return -(-self.shape.inner // self.lanes)

    def halo(self) -> tuple[tuple[int, int], ...]:
        """How far the tiles read beyond the input; the last ones may overhang the output."""
        lasts = [t * m for t, m in zip(self.tiles, self.outputs, strict=True)]
        axes = zip(self.start, lasts, self.filters, self.outputs, self.shape.read[2:], strict=True)
        return tuple(
            (max(0, -start), max(0, start + last - m + each.products - n))
            for start, last, each, m, n in axes
        )

    def block(self, itemsize: int) -> tuple[int, ...]:
        """Tiles that are transformed together: as many as the cache keeps, at most 28 or so."""
        room = CACHE // (prod(self.points) * self.in_blocks * self.lanes * itemsize)
        most = max(7, min(28, room))
        sizes = [1] * len(self.tiles)
        for axis in reversed(range(len(self.tiles))):
            sizes[axis] = _even_part(self.tiles[axis], max(1, most // prod(sizes)))
        return tuple(sizes)


IDENTITY = Filtering(*(((Fraction(1),),),) * 3)


def _even_part(count: int, most: int) -> int:
    """The width that cuts ``count`` into the fewest parts of at most ``most``, evenly."""
    parts = -(-count // most)
    return -(-count // parts)


class Winograd:
    """F(m, r) along every axis with more than one tap."""

    reorders_only: ClassVar[bool] = False

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs
        self.name = f"winograd{outputs}"

    def supports(self, site: Site) -> str | None:
        if not isinstance(site.op, Conv | ConvInputGrad):
            return "only for the forward convolution and its input gradient"
        shape = Convolution.of(site)
        taps = shape.weights[2:]
        reasons = {
            "the stride is not 1": set(shape.op.stride) != {1},
            "the kernel is dilated": set(shape.op.dilation) != {1},
            "the channels are grouped": shape.op.groups != 1,
            "every axis has one tap": set(taps) == {1},
            "too many taps": any(tap > 1 and self.outputs + tap - 1 > LARGEST for tap in taps),
            "too many points": self._points(taps) > 100,
            "the tensor is empty": 0 in (*shape.image, *shape.weights, *shape.result),
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def _points(self, taps: Sequence[int]) -> int:
        return prod(self.outputs + tap - 1 if tap > 1 else 1 for tap in taps)

    def seconds(self, site: Site) -> float:
        return predicted_seconds(self._tiling(site), site)

    def tolerance(self, site: Site) -> float:
        """Grows with the points: measured against float64, of the largest output."""
        factor = {2: 3.0, 4: 20.0, 6: 100.0}[self.outputs]
        return factor * (1e-5 if site.dtype == "f32" else 1e-13)

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        walked = Wish((site.lanes,), self._tiling(site).halo(), exact=False)
        main = (walked, AS_PLAIN) if isinstance(site.op, Conv) else (AS_PLAIN, walked)
        return (*main, *Epilogue(site, site.lanes).wishes())

    def lower(self, site: Site, into: Lowering) -> None:
        tiling = self._tiling(site)
        walked, weights = (1, 0) if tiling.flip else (0, 1)
        source = into.read(walked)
        size = prod(tiling.points) * tiling.out_blocks * tiling.shape.inner * tiling.lanes

        def transform(plain: Stored) -> Stored:
            room = into.temporary(f"{site.name}.transformed", site.dtype, size)
            into.run(weights_kernel(tiling, site), plain, room, label="pack")
            return room

        transformed = into.derive(weights, (self.name, tiling.flip, tiling.lanes), transform)
        epilogue = Epilogue(site, site.lanes)
        extra = epilogue.operands(into)
        result = into.write(site.lanes)
        k = KernelBuilder(self.name)
        x = source.image(k, "x")
        u = k.read("u", site.dtype, _weight_shape(tiling))
        finish = epilogue.declare(k, extra)
        y = result.image(k, "y", write=True)
        _blocks(k, tiling, x, u, y, finish, site.target)
        zero_halo(k, y)
        into.run(k.build(), source, transformed, *extra, result)

    def _tiling(self, site: Site) -> Tiling:
        return Tiling.of(Convolution.of(site), self.outputs, site.lanes)


def predicted_seconds(tiling: Tiling, site: Site) -> float:
    """Products at the peak, transforms at a third of it, transformed weights from the cache."""
    batch, itemsize = tiling.shape.image[0], site.outputs[0].dtype.itemsize
    tiles, points, lanes = prod(tiling.tiles), prod(tiling.points), tiling.lanes
    blocks = prod(-(-t // b) for t, b in zip(tiling.tiles, tiling.block(itemsize), strict=True))
    products = 2 * tiles * points * tiling.shape.inner * tiling.out_blocks * lanes
    adds = sum(tiling.points) * 3
    transforms = tiles * points * adds * (tiling.in_blocks + tiling.out_blocks) * lanes
    weights = points * tiling.shape.inner * tiling.out_blocks * lanes * itemsize
    peak = peak_flops(site.target, site.dtype)
    compute = batch * (products / (0.85 * peak) + transforms / (0.35 * peak))
    return max(compute, batch * blocks * weights / stream_bytes(weights))


def _weight_shape(tiling: Tiling) -> tuple[int, ...]:
    return (prod(tiling.points), tiling.out_blocks, tiling.shape.inner, tiling.lanes)


def weights_kernel(tiling: Tiling, site: Site) -> Kernel:
    """Transformed weights [points, out blocks, C, lanes] of plain ones; missing lanes are zero."""
    k = KernelBuilder("winograd_weights")
    w = k.read("w", site.dtype, tiling.shape.weights)
    u = k.write("u", site.dtype, _weight_shape(tiling))
    for cut in segments(tiling.shape.out, tiling.lanes):
        _transform_weights(k, tiling, w, u, cut)
    return k.build()


def _transform_weights(
    k: KernelBuilder, tiling: Tiling, w: Buffer, u: Buffer, cut: Segment
) -> None:
    first, count, width = cut
    taps = tiling.shape.weights[2:]
    with k.loop("o", count, "parallel") as o, k.loop("c", tiling.shape.inner, "parallel") as c:
        block = o + first // tiling.lanes
        with k.loop("v", width, "vector") as v:
            channel = o * tiling.lanes + v + first

            def source(at: tuple[int, ...]) -> Expr:
                if tiling.flip:
                    at = tuple(tap - 1 - i for tap, i in zip(taps, at, strict=True))
                rows = (c, channel) if tiling.flip else (channel, c)
                return w[(*rows, *at)]

            matrices = [each.weights for each in tiling.filters]
            for number, value in enumerate(_transformed(k, matrices, source, w, width, v)):
                k.store(u[number, block, c, v], value)
        if width < tiling.lanes:
            zero = k.constant(0, w.dtype)
            with k.loop("z", tiling.lanes - width, "vector") as v:
                for number in range(u.shape[0]):
                    k.store(u[number, block, c, v + width], zero)


def _blocks(
    k: KernelBuilder,
    tiling: Tiling,
    x: Image,
    u: Buffer,
    y: Image,
    finish: Step,
    target: Target,
) -> None:
    """One nest for each shape of block; a task is one block of tiles of one image."""
    sizes = tiling.block(4 if x.buffer.dtype == "f32" else 8)
    cuts = [segments(tiles, size) for tiles, size in zip(tiling.tiles, sizes, strict=True)]
    for cut in product(*cuts):
        with ExitStack() as loops:
            n = loops.enter_context(k.loop("n", x.shape[0], "parallel"))
            starts = tuple(
                loops.enter_context(k.loop(f"b{axis}", count, "parallel")) * width + first
                for axis, (first, count, width) in enumerate(cut)
            )
            block = _Block(k, tiling, n, starts, tuple(width for *_, width in cut))
            block.run(x, u, y, finish, target)


@dataclass(frozen=True)
class _Block:
    """Some tiles of one image: the first one's number on each axis, and how many."""

    k: KernelBuilder
    tiling: Tiling
    n: Affine
    start: tuple[Affine, ...]
    size: tuple[int, ...]

    def run(self, x: Image, u: Buffer, y: Image, finish: Step, target: Target) -> None:
        k, tiling = self.k, self.tiling
        tiles, points = prod(self.size), prod(tiling.points)
        dtype, lanes = x.buffer.dtype, tiling.lanes
        v = k.local("transformed", dtype, (points, tiles, tiling.in_blocks * lanes))
        self._transform_input(x, v)
        chosen = register_tile(target, (tiles,), tiling.out_blocks)
        for first, count, width in segments(tiling.out_blocks, chosen.blocks):
            m = k.local("products", dtype, (points, tiles, width, lanes))
            with k.loop("o", count) as o:
                block = o * chosen.blocks + first
                self._multiply(v, u, m, block, chosen.pixels[0])
                self._transform_output(m, y, block, finish)

    def _tile_loops(self, loops: ExitStack) -> tuple[list[Affine], Affine]:
        """Loops over the block's tiles: the tile on each axis, its number in the block."""
        number, at = Affine(), []
        for axis, size in enumerate(self.size):
            step = loops.enter_context(self.k.loop(f"t{axis}", size))
            number = number * size + step
            at.append(self.start[axis] + step)
        return at, number

    def _transform_input(self, x: Image, transformed: Buffer) -> None:
        k, tiling, lanes = self.k, self.tiling, self.tiling.lanes
        with ExitStack() as loops:
            at, number = self._tile_loops(loops)
            c = loops.enter_context(k.loop("c", tiling.in_blocks))
            v = loops.enter_context(k.loop("v", lanes, "vector"))
            axes = list(zip(at, tiling.outputs, tiling.start, strict=True))

            def source(point: tuple[int, ...]) -> Expr:
                cells = (t * m + start + i for (t, m, start), i in zip(axes, point, strict=True))
                return x[(self.n, c, *cells, v)]

            matrices = [each.input for each in tiling.filters]
            results = _transformed(k, matrices, source, transformed, lanes, v)
            for point, value in enumerate(results):
                k.store(transformed[point, number, c * lanes + v], value)

    def _multiply(self, v: Buffer, u: Buffer, m: Buffer, block: Affine, wide: int) -> None:
        """m[point] = v[point] times u[point], tiles by vectors of output channels."""

        def update(p: Point, acc: Expr) -> Expr:
            weights = u[p["x"], block + p["o"], p["c"], p["v"]]
            return fma(v[p["x"], p["t"], p["c"]], weights, acc)

        def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
            return m[p["x"], p["t"], p["o"], p["v"]], acc

        points, tiles, deep, lanes = m.shape
        axes = {"x": points, "t": tiles, "o": deep, "v": lanes}
        box = {"c": range(self.tiling.shape.inner)}
        nest = Nest(m.dtype, axes, store, update, (box,))
        lower(self.k, nest, Schedule((), (("t", wide), ("o", deep)), ("v", lanes)))

    def _transform_output(self, m: Buffer, y: Image, block: Affine, finish: Step) -> None:
        k, tiling, lanes = self.k, self.tiling, self.tiling.lanes
        shape = tiling.outputs
        with ExitStack() as loops:
            at, number = self._tile_loops(loops)
            o = loops.enter_context(k.loop("p", m.shape[2]))
            tile = k.local("tile", m.dtype, (prod(shape), lanes))
            with k.loop("v", lanes, "vector") as v:

                def source(point: tuple[int, ...]) -> Expr:
                    return m[_flat(point, tiling.points), number, o, v]

                matrices = [each.output for each in tiling.filters]
                for place, value in enumerate(_transformed(k, matrices, source, m, lanes, v)):
                    k.store(tile[place, v], value)
            for place, offset in enumerate(product(*map(range, shape))):
                cells = tuple(t * w + i for t, w, i in zip(at, shape, offset, strict=True))
                with ExitStack() as inside:
                    for cell, extent in zip(cells, y.shape[2:], strict=True):
                        inside.enter_context(k.guard(cell, extent))
                    v = inside.enter_context(k.loop("v", lanes, "vector"))
                    index = (self.n, block + o, *cells, v)
                    k.store(y[index], finish(tile[place, v], index))


def _flat(point: Sequence[int], shape: Sequence[int]) -> int:
    number = 0
    for i, extent in zip(point, shape, strict=True):
        number = number * extent + i
    return number


def _transformed(
    k: KernelBuilder,
    matrices: Sequence[Matrix],
    source: Callable[[tuple[int, ...]], Expr],
    like: Buffer,
    lanes: int,
    v: Affine,
) -> Iterator[Expr]:
    """A matrix applied along each axis of a small array of vectors; the results, row-major.

    ``source`` gives the array's elements; intermediate ones are kept in locals.
    """
    shape = [len(matrix[0]) for matrix in matrices]
    for axis, matrix in enumerate(matrices):
        after = [*shape[:axis], len(matrix), *shape[axis + 1 :]]
        stage = k.local("stage", like.dtype, (prod(after), lanes))
        for rest in product(*(range(1 if a == axis else n) for a, n in enumerate(shape))):

            along = _along(source, rest, axis)
            for i, value in _matrix_times(k, matrix, along, like, lanes, v):
                place = _flat((*rest[:axis], i, *rest[axis + 1 :]), after)
                k.store(stage[place, v], value)
        shape = after
        source = _reader(stage, tuple(after), v)
    return (source(point) for point in product(*map(range, shape)))


def _along(
    source: Callable[[tuple[int, ...]], Expr], rest: tuple[int, ...], axis: int
) -> Callable[[int], Expr]:
    """The elements on a line through ``rest``, along one axis."""
    return lambda i: source((*rest[:axis], i, *rest[axis + 1 :]))


def _reader(stage: Buffer, shape: tuple[int, ...], v: Affine) -> Callable[[tuple[int, ...]], Expr]:
    return lambda point: stage[_flat(point, shape), v]


def _matrix_times(
    k: KernelBuilder,
    matrix: Matrix,
    element: Callable[[int], Expr],
    like: Buffer,
    lanes: int,
    v: Affine,
) -> Iterator[tuple[int, Expr]]:
    """Rows of matrix times vector. Rows that differ by signs share their two partial sums."""
    done: set[int] = set()
    for i, row in enumerate(matrix):
        if i in done:
            continue
        partner = _partner(matrix, i)
        if partner is None:
            yield i, _combination(k, row, element, like)
            continue
        done.add(partner)
        other = matrix[partner]
        same = [a if a == b else Fraction(0) for a, b in zip(row, other, strict=True)]
        opposite = [a if a != b else Fraction(0) for a, b in zip(row, other, strict=True)]
        halves = k.local("halves", like.dtype, (2, lanes))
        k.store(halves[0, v], _combination(k, same, element, like))
        k.store(halves[1, v], _combination(k, opposite, element, like))
        yield i, halves[0, v] + halves[1, v]
        yield partner, halves[0, v] - halves[1, v]


def _partner(matrix: Matrix, i: int) -> int | None:
    """A later row with the same magnitudes, some signs equal and some opposite."""
    for j in range(i + 1, len(matrix)):
        pairs = list(zip(matrix[i], matrix[j], strict=True))
        equal = [a for a, b in pairs if a and a == b]
        opposite = [a for a, b in pairs if a and a == -b]
        rest = [a for a, b in pairs if abs(a) != abs(b)]
        if len(equal) > 0 and len(opposite) > 0 and len(equal) + len(opposite) > 2 and not rest:
            return j
    return None


def _combination(
    k: KernelBuilder, row: Sequence[Fraction], element: Callable[[int], Expr], like: Buffer
) -> Expr:
    """The sum of the elements times the row's entries; terms with the entry 1 come first."""
    terms = sorted((j for j, c in enumerate(row) if c), key=lambda j: row[j] != 1)
    total: Expr | None = None
    for j in terms:
        value, factor = element(j), row[j]
        if total is None:
            total = value if factor == 1 else value * k.constant(float(factor), like.dtype)
        elif abs(factor) == 1:
            total = total + value if factor > 0 else total - value
        else:
            total = fma(value, k.constant(float(factor), like.dtype), total)
    return total if total is not None else k.constant(0, like.dtype)
