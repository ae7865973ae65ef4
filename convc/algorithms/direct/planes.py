"""Direct convolution of each channel by itself on plain data, a plane at a time.

Each plane is copied, with its halo, into the task's own memory, where it stays in the cache; the
lanes of a vector are neighbours on the last axis.
"""

from __future__ import annotations

from contextlib import ExitStack
from math import prod

from convc.algorithms.epilogue import Step
from convc.algorithms.geometry import Lines
from convc.layout import Image, Layout, Pads, zero_border
from convc.schedule import Nest, Point, Schedule, Segment, lower, segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Index

LARGEST = 512 * 1024  # bytes of a plane that the cache keeps


def plane_bytes(shape: tuple[int, ...], halo: Pads, itemsize: int) -> int:
    return prod(Layout(1, halo).physical((1, 1, *shape[2:]))) * itemsize


def correlate(
    k: KernelBuilder,
    x: Image,
    w: Buffer,
    y: Image,
    lines: list[Lines],
    halo: Pads,
    finish: Step,
    lanes: int,
) -> None:
    """Append ``y = finish(x correlated with w)``; w is [C, 1, *taps] as given."""
    shape = (1, 1, *x.shape[2:])
    layout = Layout(1, halo)
    with k.loop("n", x.shape[0], "parallel") as n, k.loop("c", x.shape[1], "parallel") as c:
        memory = k.local("plane", x.buffer.dtype, layout.physical(shape))
        plane = Image(memory, layout, shape)
        zero_border(k, plane, (0, 0))
        _copy(k, x, plane, (n, c), lanes)
        for each in lines:
            for vectors in segments(each[-1].count, lanes):
                _correlate(k, plane, w, y, (n, c), each, finish, vectors)


def _copy(
    k: KernelBuilder, x: Image, plane: Image, at: tuple[Affine, Affine], lanes: int
) -> None:
    *rows, last = x.shape[2:]
    with ExitStack() as loops:
        row = [loops.enter_context(k.loop(f"s{a}", extent)) for a, extent in enumerate(rows)]
        for start, trips, width in segments(last, lanes):
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
) -> None:
    """One cut of the last axis: whole vectors, or the positions that remain."""
    first, count, lanes = vectors
    last = len(lines) - 1

    def positions(p: Point) -> list[Affine]:
        return [*(p[f"q{axis}"] for axis in range(last)), p["u"] * lanes + p["v"] + first]

    def out_index(p: Point) -> tuple[Index, ...]:
        return (*at, *(li.out_at(q) for li, q in zip(lines, positions(p), strict=True)), 0)

    def update(p: Point, acc: Expr) -> Expr:
        taps = [p[f"m{axis}"] for axis in range(len(lines))]
        cells = (li.in_at(q, t) for li, q, t in zip(lines, positions(p), taps, strict=True))
        where = (line.weight_at(t) for line, t in zip(lines, taps, strict=True))
        return fma(plane[(0, 0, *cells, 0)], w[(at[1], 0, *where)], acc)

    axes = {f"q{a}": line.count for a, line in enumerate(lines[:-1])} | {"u": count, "v": lanes}
    box = {f"m{axis}": range(line.taps) for axis, line in enumerate(lines)}
    nest = Nest(
        plane.buffer.dtype,
        axes,
        lambda p, acc: (y[out_index(p)], finish(acc, out_index(p))),
        update,
        (box,) if all(line.taps for line in lines) else (),
    )
    wide = min(count, 4)
    rows = ((f"q{last - 1}", max(1, 12 // wide)),) if last else ()
    lower(k, nest, Schedule((), (*rows, ("u", wide)), ("v", lanes)))
