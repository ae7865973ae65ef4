"""A structured reduction, and the schedule that turns it into loops.

A ``Nest`` says what is computed: ``out[axes] = finish(reduce(update))``. A ``Schedule`` says how:
which axes are parallel, which are unrolled into a tile of register accumulators, which one is
the vector. Where a tile does not divide its axis, the remainder becomes a second body of the
narrower width, so that no loop contains a test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from math import isqrt, prod

from convc.backend.target import Target
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.nodes import Expr, Load, LoopKind, Scalar

Point = Mapping[str, Affine]  # a value for each axis
Segment = tuple[int, int, int]  # start, trips, width
Extent = int | tuple[range, ...]
LONG, PART = 8192, 1024  # terms: longer sums are added up in parts of at least so many


@dataclass(frozen=True)
class Schedule:
    """``tile`` lists the unrolled axes, outermost first: the order decides register pressure."""

    parallel: tuple[str, ...] = ()
    tile: tuple[tuple[str, int], ...] = ()
    vector: tuple[str, int] | None = None

    @property
    def widths(self) -> dict[str, int]:
        return dict(self.tile) | (dict([self.vector]) if self.vector else {})


@dataclass(frozen=True)
class Nest:
    """``axes``: extents (or consecutive ranges) of the free axes, outermost loop first.

    ``reductions``: boxes of reduction axes, run one after the other into one accumulator that
    starts at ``init`` (0 for a sum, and only for a sum); without any, it is the result.
    ``update(point, accumulator)`` gives the new accumulator, ``finish(point, accumulator)`` the
    result, ``store(point, result)`` the element and the value to write.
    ``guards(point)`` gives (index, extent) pairs outside of which the update is skipped.
    ``across`` names a tiled axis along which the results are contiguous, where the vector axis is
    not: the tile is transposed in registers, and ``store`` is asked for vectors along that axis.
    ``kept(point)`` says which of the vector axis to store. ``pooled`` names tiled axes, each whole
    in a tile, and what makes one result of those along them.
    ``ahead`` names a reduction axis, and appends to each step along it what prefetches the
    operands of later ones; the point is where the tile and the reduction are.
    """

    dtype: Scalar
    axes: Mapping[str, Extent]
    store: Callable[[Point, Expr], tuple[Load, Expr]]
    update: Callable[[Point, Expr], Expr] | None = None
    reductions: tuple[Mapping[str, range], ...] = ()
    init: float = 0.0
    guards: Callable[[Point], Sequence[tuple[Affine, int]]] = field(default=lambda point: ())
    finish: Callable[[Point, Expr], Expr] = field(default=lambda point, value: value)
    across: str | None = None
    pooled: tuple[tuple[str, ...], Callable[[KernelBuilder, Sequence[Expr]], Expr]] | None = None
    kept: Callable[[Point], Sequence[tuple[Affine, int]]] = field(default=lambda point: ())
    ahead: tuple[str, Callable[[KernelBuilder, Point], None]] | None = None


def segments(extent: Extent, width: int) -> list[Segment]:
    """Cut each range into whole tiles and a narrower last one."""
    cuts: list[Segment] = []
    for part in (range(extent),) if isinstance(extent, int) else extent:
        whole, rest = divmod(len(part), width)
        cuts += [(part.start, whole, width)] if whole else []
        cuts += [(part.stop - rest, 1, rest)] if rest else []
    return cuts


def lower(k: KernelBuilder, nest: Nest, schedule: Schedule) -> None:
    """Append the nest's loops to the kernel: one perfect nest per combination of segments."""
    widths = schedule.widths
    parallel = [axis for axis in nest.axes if axis in schedule.parallel]
    serial = [axis for axis in nest.axes if axis not in schedule.parallel]
    for cut in product(*(segments(nest.axes[axis], widths.get(axis, 1)) for axis in parallel)):
        with ExitStack() as loops:
            tile = _Tile(k, nest, schedule)
            if not parallel and k.outermost:
                loops.enter_context(k.loop("task", 1, "parallel"))
            for axis, segment in zip(parallel, cut, strict=True):
                tile = tile.along(axis, segment, loops, "parallel")
            _serial(tile, serial)


@dataclass(frozen=True)
class _Tile:
    """Where the loops entered so far have led: a base point and the width of each axis."""

    k: KernelBuilder
    nest: Nest
    schedule: Schedule
    base: Mapping[str, Affine] = field(default_factory=dict)
    width: Mapping[str, int] = field(default_factory=dict)

    def along(self, axis: str, segment: Segment, loops: ExitStack, kind: LoopKind) -> _Tile:
        start, trips, width = segment
        trip = loops.enter_context(self.k.loop(axis, trips, kind))
        return _Tile(
            self.k, self.nest, self.schedule,
            {**self.base, axis: trip * width + start}, {**self.width, axis: width},
        )  # fmt: skip

    def sweep(self) -> Iterator[tuple[dict[str, Affine], tuple[Affine, ...]]]:
        """The unrolled and vector loops: yields each point and its accumulator subscript."""
        axes = [axis for axis, _ in self.schedule.tile]
        kinds: list[LoopKind] = ["unroll"] * len(axes)
        if self.schedule.vector:
            axes.append(self.schedule.vector[0])
            kinds.append("vector")
        with ExitStack() as loops:
            point, offsets = dict(self.base), []
            for axis, kind in zip(axes, kinds, strict=True):
                name = f"{axis}_{kind[0]}"
                offset = loops.enter_context(self.k.loop(name, self.width[axis], kind))
                point[axis] = point[axis] + offset
                offsets.append(offset)
            yield point, tuple(offsets)

    def accumulator(self) -> Buffer:
        shape = tuple(self.width[axis] for axis in self.schedule.widths)
        return self.k.local("acc", self.nest.dtype, shape or (1,))


def _serial(tile: _Tile, axes: list[str]) -> None:
    if not axes:
        _body(tile)
        return
    width = tile.schedule.widths.get(axes[0], 1)
    for segment in segments(tile.nest.axes[axes[0]], width):
        with ExitStack() as loops:
            _serial(tile.along(axes[0], segment, loops, "for"), axes[1:])


def _body(tile: _Tile) -> None:
    """One register tile: start the accumulators, run the reductions, store."""
    k, nest = tile.k, tile.nest
    start = k.constant(nest.init, nest.dtype)
    if not (nest.reductions or nest.across or nest.pooled):
        for point, _ in tile.sweep():
            k.store(*nest.store(point, nest.finish(point, start)))
        return
    accumulator = tile.accumulator()
    for _, offsets in tile.sweep():
        k.store(accumulator[offsets or (0,)], start)
    for box in nest.reductions:
        _reduce(tile, accumulator, box)
    if nest.across:
        _store_across(tile, accumulator, nest.across)
        return
    if nest.pooled:
        _store_pooled(tile, accumulator, *nest.pooled)
        return
    for point, offsets in tile.sweep():
        k.store(*nest.store(point, nest.finish(point, accumulator[offsets or (0,)])))


def _store_pooled(
    tile: _Tile,
    accumulator: Buffer,
    axes: Sequence[str],
    combine: Callable[[KernelBuilder, Sequence[Expr]], Expr],
) -> None:
    """Store one result for all those of the tile that differ along the axes only."""
    windows = _Tile(
        tile.k, tile.nest, tile.schedule, tile.base, {**tile.width, **dict.fromkeys(axes, 1)}
    )
    cells = list(product(*(range(tile.width[axis]) for axis in axes)))
    for first, offsets in windows.sweep():
        at = dict(zip(tile.schedule.widths, offsets, strict=True))
        values = []
        for cell in cells:
            moved = dict(zip(axes, cell, strict=True))
            place = [offset + moved.get(axis, 0) for axis, offset in at.items()]
            point = {axis: where + moved.get(axis, 0) for axis, where in first.items()}
            values.append(tile.nest.finish(point, accumulator[tuple(place)]))
        tile.k.store(*tile.nest.store(first, combine(tile.k, values)))


def _store_across(tile: _Tile, accumulator: Buffer, across: str) -> None:
    """Transpose the tile's vectors, a square at a time, and store along ``across``."""
    assert tile.schedule.vector
    others = [axis for axis, _ in tile.schedule.tile if axis != across]
    for first, squares, rows in segments(tile.width[across], tile.schedule.vector[1]):
        with ExitStack() as loops:
            at = {
                axis: loops.enter_context(tile.k.loop(f"{axis}_u", tile.width[axis], "unroll"))
                for axis in others
            }
            square = loops.enter_context(tile.k.loop("square", squares, "unroll"))
            at[across] = square * rows + first
            _store_square(tile, accumulator, across, at, rows)


def _store_square(
    tile: _Tile, accumulator: Buffer, across: str, at: Mapping[str, Affine], rows: int
) -> None:
    """The square that starts at the offsets ``at`` in the tile, of so many rows."""
    k, nest = tile.k, tile.nest
    assert tile.schedule.vector
    vector, lanes = tile.schedule.vector
    base = {axis: start + at[axis] if axis in at else start for axis, start in tile.base.items()}
    square = k.local("square", nest.dtype, (lanes, lanes))
    with k.loop("row", rows, "unroll") as row, k.loop("v", lanes, "vector") as v:
        place = {**at, across: at[across] + row, vector: v}
        value = accumulator[tuple(place[axis] for axis in tile.schedule.widths)]
        point = {**base, across: base[across] + row, vector: base[vector] + v}
        k.store(square[row, v], nest.finish(point, value))
    with k.loop("column", lanes, "unroll") as column, ExitStack() as inside:
        point = {**base, vector: base[vector] + column}
        for index, extent in nest.kept(point):
            inside.enter_context(k.guard(index, extent))
        row = inside.enter_context(k.loop("row", rows, "vector"))
        k.store(*nest.store({**point, across: base[across] + row}, square[row, column]))


def _reduce(tile: _Tile, accumulator: Buffer, box: Mapping[str, range]) -> None:
    """Run one box of the reduction; a long sum in parts, each with accumulators of its own.

    Added up one by one, many terms drown in the rounding of their sum; parts of about the square
    root of their number keep the error near that of as many terms (Higham 1993, blocked sums).
    """
    steps = prod(map(len, box.values()))
    if tile.nest.init != 0 or steps <= LONG:
        _accumulate(tile, accumulator, box, {})
        return
    outer, inner = dict(box), dict[str, range]()
    most = max(PART, isqrt(steps))
    for axis in reversed(list(box)):
        if prod(map(len, inner.values())) * len(box[axis]) > most:
            break
        inner = {axis: outer.pop(axis), **inner}
    if inner:
        _accumulate_parts(tile, accumulator, outer, inner, None)
        return
    last, extent = outer.popitem()
    for first, count, width in segments((extent,), most):
        parts = {**outer, f"{last}_part": range(count)}
        _accumulate_parts(tile, accumulator, parts, {last: range(first, first + width)}, last)


def _accumulate_parts(
    tile: _Tile,
    accumulator: Buffer,
    outer: Mapping[str, range],
    inner: Mapping[str, range],
    cut: str | None,
) -> None:
    """For each outer position, sum over the inner box, then add. ``cut``: an axis whose parts the
    last outer loop counts."""
    k = tile.k
    with ExitStack() as loops:
        position = {a: loops.enter_context(k.loop(a, extent)) for a, extent in outer.items()}
        if cut:
            part = position.pop(f"{cut}_part")
            position[cut] = part * len(inner[cut])
        partial = tile.accumulator()
        zero = k.constant(0, tile.nest.dtype)
        for _, offsets in tile.sweep():
            k.store(partial[offsets or (0,)], zero)
        _accumulate(tile, partial, inner, position)
        for _, offsets in tile.sweep():
            total = accumulator[offsets or (0,)]
            k.store(total, total + partial[offsets or (0,)])


def _accumulate(
    tile: _Tile, accumulator: Buffer, box: Mapping[str, range], base: Mapping[str, Affine]
) -> None:
    """Update the accumulators for every point of the box, which is shifted by ``base``."""
    k, nest = tile.k, tile.nest
    assert nest.update is not None
    with ExitStack() as loops:
        position = dict(base)
        for axis, extent in box.items():
            at = loops.enter_context(k.loop(axis, extent))
            position[axis] = at + base[axis] if axis in base else at
            if nest.ahead and nest.ahead[0] == axis:
                nest.ahead[1](k, {**tile.base, **position})
        for point, offsets in tile.sweep():
            full = {**point, **position}
            with ExitStack() as guards:
                for index, size in nest.guards(full):
                    guards.enter_context(k.guard(index, size))
                element = accumulator[offsets or (0,)]
                k.store(element, nest.update(full, element))


@dataclass(frozen=True)
class RegisterTile:
    """Widths of the pixel axes and of the axis of channel blocks, and what they are predicted to
    cost: ``cycles`` for one step of the reduction over all pixels and blocks."""

    pixels: tuple[int, ...]
    blocks: int
    cycles: float


@functools.lru_cache(maxsize=4096)
def register_tile(
    target: Target, pixels: tuple[int, ...], blocks: int, deepest: int = 4, cells: int = 1
) -> RegisterTile:
    """The tile that takes the fewest cycles, where a pixel stands for so many ``cells``.

    A tile of p pixels and b vectors needs p*b accumulators, b registers for the weights and one
    for a broadcast; one stays free, without which the register allocator spills. Per reduction
    step it costs the most of: p*b multiply-adds at two a cycle, p+b loads at two a cycle, and four
    cycles of latency; remainders are counted as they run.
    """
    best: tuple[float, int] = (float("inf"), 0)
    choice = RegisterTile((1,) * len(pixels), 1, 0.0)
    for b in range(1, min(blocks, deepest) + 1):
        most = (target.registers - b - 2) // (b * cells)
        across = segments(blocks, b)
        for shape in _pixel_tiles(pixels, most):
            cuts = [segments(n, w) for n, w in zip(pixels, shape, strict=True)]
            cycles = 0.0
            for cut in product(*cuts):
                times, wide = prod(trips for _, trips, _ in cut), cells * prod(w for *_, w in cut)
                for _, trips, deep in across:
                    cycles += times * trips * _tile_cycles(wide, deep)
            bodies = prod(map(len, cuts)) * len(across)
            rank = (cycles * (1 + 0.01 * bodies), bodies)
            if rank < best:
                best, choice = rank, RegisterTile(shape, b, cycles)
    return choice


def _pixel_tiles(pixels: tuple[int, ...], most: int) -> Iterator[tuple[int, ...]]:
    if not pixels:
        yield ()
        return
    for width in range(min(pixels[-1], most), 0, -1):  # wide first: it wins ties
        for outer in _pixel_tiles(pixels[:-1], most // width):
            yield (*outer, width)


def _tile_cycles(pixels: int, blocks: int) -> float:
    return max(pixels * blocks / 2, (pixels + blocks) / 2, 4.0) + 0.1
