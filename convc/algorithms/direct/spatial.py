"""Direct convolution on plain data, the lanes of a vector being neighbours on the last axis.

Serves any number of channels and groups; what the other forms do not take.
"""

from __future__ import annotations

from convc.algorithms.epilogue import Step
from convc.algorithms.geometry import Lines
from convc.layout import Image
from convc.schedule import Nest, Point, Schedule, Segment, lower, segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Index, Load


def correlate(
    k: KernelBuilder,
    x: Image,
    w: Buffer,
    y: Image,
    groups: int,
    lines: Lines,
    finish: Step,
    lanes: int,
    transposed: bool,
) -> None:
    """Append ``y = finish(x correlated with w)``; w is [K, C/groups, *taps] as given.

    ``transposed`` sums over K and yields C, as the input gradient does.
    """
    for vectors in segments(lines[-1].count, lanes):
        _correlate(k, x, w, y, groups, lines, finish, transposed, vectors)


def _correlate(
    k: KernelBuilder,
    x: Image,
    w: Buffer,
    y: Image,
    groups: int,
    lines: Lines,
    finish: Step,
    transposed: bool,
    vectors: Segment,
) -> None:
    """One cut of the last axis: whole vectors, or the positions that remain."""
    first, count, lanes = vectors
    inner, out = x.shape[1] // groups, y.shape[1] // groups
    last = len(lines) - 1

    def positions(p: Point) -> list[Affine]:
        column = p["u"] * lanes + p["v"] + first
        return [*(p[f"q{axis}"] for axis in range(last)), column]

    def out_index(p: Point) -> tuple[Index, ...]:
        at = (line.out_at(q) for line, q in zip(lines, positions(p), strict=True))
        return (p["n"], p["g"] * out + p["o"], *at, 0)

    def update(p: Point, acc: Expr) -> Expr:
        taps = [p[f"m{a}"] for a in range(len(lines))]
        at = (li.in_at(q, t) for li, q, t in zip(lines, positions(p), taps, strict=True))
        where = (line.weight_at(t) for line, t in zip(lines, taps, strict=True))
        source, target = p["g"] * inner + p["i"], p["g"] * out + p["o"]
        rows = (source, p["o"]) if transposed else (target, p["i"])
        return fma(x[(p["n"], source, *at, 0)], w[(*rows, *where)], acc)

    axes = {"n": x.shape[0], "g": groups, "o": out}
    axes |= {f"q{a}": line.count for a, line in enumerate(lines[:-1])} | {"u": count, "v": lanes}
    box = {"i": range(inner)} | {f"m{a}": range(line.taps) for a, line in enumerate(lines)}
    nest = Nest(
        x.buffer.dtype,
        axes,
        lambda p, acc: (y[out_index(p)], finish(acc, out_index(p))),
        update,
        (box,) if all(line.taps for line in lines) else (),
    )
    deep, wide = max(1, min(out, 4)), min(count, 7 if out == 1 else 3)
    rows = ((f"q{last - 1}", max(1, 12 // (deep * wide))),) if last else ()
    parallel = ("n", "g", "o", *(f"q{axis}" for axis in range(last)))
    lower(k, nest, Schedule(parallel, (*rows, ("u", wide), ("o", deep)), ("v", lanes)))


def partial_shape(weights: tuple[int, ...], row: int, lanes: int) -> tuple[int, ...]:
    """Partial sums of the weight gradient: one for each lane of whole vectors and of the rest."""
    return (*weights, sum(width for _, _, width in segments(row, lanes)))


def weight_gradient(
    k: KernelBuilder, g: Image, x: Image, partial: Buffer, groups: int, lines: Lines, lanes: int
) -> None:
    """Append ``partial[k, c, m, v]``: the sum of g[n, k, q] * x[n, c, q*s + m*d - lo] over n and
    the positions q that fall on lane v of a vector along the last axis."""
    lane = 0
    for vectors in segments(lines[-1].count, lanes):
        nest = _partial_nest(g, x, partial, groups, lines, vectors, lane)
        last = f"m{len(lines) - 1}"
        tile = (("o", 4), ("i", 2), (last, min(lines[-1].taps, 3)))
        lower(k, nest, Schedule(("g", "o", "i"), tile, ("v", vectors[2])))
        lane += vectors[2]


def _partial_nest(
    g: Image,
    x: Image,
    partial: Buffer,
    groups: int,
    lines: Lines,
    vectors: Segment,
    lane: int,
) -> Nest:
    first, count, width = vectors
    out, inner = g.shape[1] // groups, x.shape[1] // groups
    last = len(lines) - 1
    taps = {f"m{axis}": line.taps for axis, line in enumerate(lines)}

    def update(p: Point, acc: Expr) -> Expr:
        here = [*(p[f"q{a}"] for a in range(last)), p["u"] * width + p["v"] + first]
        at = (li.in_at(q, p[m]) for li, q, m in zip(lines, here, taps, strict=True))
        above, below = p["g"] * out + p["o"], p["g"] * inner + p["i"]
        return fma(x[(p["n"], below, *at, 0)], g[(p["n"], above, *here, 0)], acc)

    def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
        place = (p["g"] * out + p["o"], p["i"], *(p[m] for m in taps), p["v"] + lane)
        return partial[place], acc

    box = {"n": range(g.shape[0])} | {f"q{a}": range(li.count) for a, li in enumerate(lines[:-1])}
    axes = {"g": groups, "o": out, "i": inner, **taps, "v": width}
    reductions = (box | {"u": range(count)},) if g.shape[0] else ()
    return Nest(g.buffer.dtype, axes, store, update, reductions)


def add_lanes(partial: Buffer, dw: Buffer, k: KernelBuilder) -> None:
    """Append ``dw`` = the partial sums added up, in order."""
    *outer, lanes = partial.shape
    axes = {f"a{axis}": extent for axis, extent in enumerate(outer)}

    def update(p: Point, acc: Expr) -> Expr:
        return acc + partial[(*(p[a] for a in axes), p["v"])]

    def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
        return dw[tuple(p[a] for a in axes)], acc

    nest = Nest(dw.dtype, axes, store, update, ({"v": range(lanes)},))
    lower(k, nest, Schedule(("a0", "a1"), ((f"a{len(outer) - 1}", 4),)))
