"""Direct convolution of each channel by itself on plain data, a plane at a time.

Each plane is copied, with its halo, into the task's own memory, where it stays in the cache; the
lanes of a vector are neighbours on the last axis.
"""

from __future__ import annotations

from contextlib import ExitStack
from math import prod

from convc.algorithms.convert import TASKS
from convc.algorithms.epilogue import Step
from convc.algorithms.geometry import Lines, Taps, at_once, tap_tile
from convc.backend.target import Target
from convc.layout import Image, Layout, Pads, zero_border
from convc.schedule import Nest, Point, Schedule, Segment, lower, segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Index, Load

CHANNELS = 4  # of a task, if there are many: the border of their plane is cleared once
LARGEST = 512 * 1024  # bytes of a plane that the cache keeps


def plane_bytes(shape: tuple[int, ...], halo: Pads, itemsize: int) -> int:
    return prod(Layout(1, halo).physical((1, 1, *shape[2:]))) * itemsize


def row_taps(lines: Lines, target: Target) -> Taps:
    """Rows share what they read."""
    return Taps(lines, max(len(lines) - 2, 0), at_once(target))


def correlate(
    k: KernelBuilder,
    x: Image,
    w: Buffer,
    y: Image,
    lines: list[Lines],
    halo: Pads,
    finish: Step,
    target: Target,
) -> None:
    """Append ``y = finish(x correlated with w)``; w is [C, 1, *taps] as given."""
    lanes = target.lanes(x.buffer.dtype)
    shape = (1, 1, *x.shape[2:])
    layout = Layout(1, halo)
    few = prod(x.shape[:2]) < CHANNELS * TASKS
    for first, groups, size in segments(x.shape[1], 1 if few else CHANNELS):
        with k.loop("n", x.shape[0], "parallel") as n, k.loop("g", groups, "parallel") as g:
            plane = Image(k.local("plane", x.buffer.dtype, layout.physical(shape)), layout, shape)
            zero_border(k, plane, (0, 0))
            with k.loop("c", size) as c:
                at = n, g * size + c + first
                _copy(k, x, plane, at, lanes)
                for each in lines:
                    for vectors in _vectors(each[-1].count, lanes):
                        _correlate(k, plane, w, y, at, each, finish, vectors, target)


def weight_gradient(
    k: KernelBuilder, g: Image, x: Image, dw: Buffer, lines: Lines, halo: Pads, lanes: int
) -> None:
    """Append ``dw[c, 0, m] = sum over n, q of g[n, c, q] * x[n, c, q*s + m*d - lo]``.

    A task sums up one channel, in each lane of the vectors of a row, and then the lanes.
    """
    shape, dtype = (1, 1, *x.shape[2:]), dw.dtype
    layout, cuts = Layout(1, halo), segments(lines[-1].count, lanes)
    taps = {f"m{axis}": line.taps for axis, line in enumerate(lines)}
    with k.loop("c", x.shape[1], "parallel") as c:
        plane = Image(k.local("plane", dtype, layout.physical(shape)), layout, shape)
        zero_border(k, plane, (0, 0))
        sums = k.local("sums", dtype, (*taps.values(), sum(width for *_, width in cuts)))
        zero = k.constant(0, dtype)
        clear = Nest(dtype, {**taps, "l": sums.shape[-1]},
                     lambda p, _: (sums[(*(p[m] for m in taps), p["l"])], zero))  # fmt: skip
        lower(k, clear, Schedule())
        with k.loop("n", x.shape[0]) as n:
            _copy(k, x, plane, (n, c), lanes)
            lane = 0
            for vectors in cuts:
                _correlate_rows(k, g, plane, sums, (n, c), lines, vectors, lane)
                lane += vectors[2]

        def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
            return dw[(c, 0, *(p[m] for m in taps))], acc

        def update(p: Point, acc: Expr) -> Expr:
            return acc + sums[(*(p[m] for m in taps), p["l"])]

        nest = Nest(dtype, taps, store, update, ({"l": range(sums.shape[-1])},))
        lower(k, nest, Schedule((), tap_tile(lines)))


def _correlate_rows(
    k: KernelBuilder,
    g: Image,
    plane: Image,
    sums: Buffer,
    at: tuple[Affine, Affine],
    lines: Lines,
    vectors: Segment,
    lane: int,
) -> None:
    """Add one cut of the rows of a plane to the sums, from a lane on."""
    first, count, width = vectors
    taps = {f"m{axis}": line.taps for axis, line in enumerate(lines)}

    def update(p: Point, acc: Expr) -> Expr:
        here = [*(p[f"q{a}"] for a in range(len(lines) - 1)), p["u"] * width + p["v"] + first]
        cells = (li.in_at(q, p[m]) for li, q, m in zip(lines, here, taps, strict=True))
        return fma(plane[(0, 0, *cells, 0)], g[(*at, *here, 0)], acc)

    def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
        place = sums[(*(p[m] for m in taps), p["v"] + lane)]
        return place, place + acc

    box = {f"q{a}": range(line.count) for a, line in enumerate(lines[:-1])} | {"u": range(count)}
    nest = Nest(sums.dtype, {**taps, "v": width}, store, update, (box,))
    lower(k, nest, Schedule((), tap_tile(lines), ("v", width)))


def _vectors(count: int, lanes: int) -> list[Segment]:
    """Cuts of a row into vectors: the last one overlaps, rather than be narrower."""
    if count < lanes:
        return segments(count, lanes)
    rest = [(count - lanes, 1, lanes)] if count % lanes else []
    return [(0, count // lanes, lanes), *rest]


def _copy(
    k: KernelBuilder, x: Image, plane: Image, at: tuple[Affine, Affine], lanes: int
) -> None:
    *rows, last = x.shape[2:]
    with ExitStack() as loops:
        row = [loops.enter_context(k.loop(f"s{a}", extent)) for a, extent in enumerate(rows)]
        for start, trips, width in _vectors(last, lanes):
            with k.loop("u", trips) as u, k.loop("v", width, "vector") as v:
                column = u * width + v + start
                k.store(plane[(0, 0, *row, column, 0)], x[(*at, *row, column, 0)])


def _correlate(
    k: KernelBuilder,
    plane: Image,
    w: Buffer,
    y: Image,
    at: tuple[Affine, Affine],
    lines: Lines,
    finish: Step,
    vectors: Segment,
    target: Target,
) -> None:
    """One cut of the last axis: whole vectors, or the positions that remain."""
    first, count, lanes = vectors
    last = len(lines) - 1
    taps = row_taps(lines, target)

    def positions(p: Point) -> list[Affine]:
        return [*(p[f"q{axis}"] for axis in range(last)), p["u"] * lanes + p["v"] + first]

    def out_index(p: Point) -> tuple[Index, ...]:
        return (*at, *(li.out_at(q) for li, q in zip(lines, positions(p), strict=True)), 0)

    def update(p: Point, acc: Expr) -> Expr:
        for tap in taps.at(p):
            cells = (li.in_at(q, t) for li, q, t in zip(lines, positions(p), tap, strict=True))
            where = (line.weight_at(t) for line, t in zip(lines, tap, strict=True))
            acc = fma(plane[(0, 0, *cells, 0)], w[(at[1], 0, *where)], acc)
        return acc

    axes = {f"q{a}": line.count for a, line in enumerate(lines[:-1])} | {"u": count, "v": lanes}
    nest = Nest(
        plane.buffer.dtype,
        axes,
        lambda p, acc: (y[out_index(p)], finish(acc, out_index(p))),
        update,
        (taps.loops,) if all(line.taps for line in lines) else (),
    )
    wide = min(count, 1 if last and taps.shared else 4)
    sums = at_once(target) if taps.shared else target.registers * 3 // 4
    rows = ((f"q{last - 1}", max(1, sums // wide)),) if last else ()
    lower(k, nest, Schedule((), (*rows, ("u", wide)), ("v", lanes)))
