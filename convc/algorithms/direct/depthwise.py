"""Direct convolution of each channel by itself, the lanes of a vector being those channels."""

from __future__ import annotations

from collections.abc import Sequence

from convc.algorithms.epilogue import Step
from convc.algorithms.geometry import Lines, Taps, at_once, tap_tile
from convc.backend.target import Target
from convc.layout import Image
from convc.schedule import Nest, Point, Schedule, Segment, lower, segments
from ir.loops import Affine, Buffer, Kernel, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Load, Scalar

PIXELS = 8  # accumulators in flight: two multiply-adds a cycle, four cycles each


def pack_kernel(dtype: Scalar, weights: Sequence[int], lanes: int) -> Kernel:
    """Weights [C, 1, *taps] to [channel blocks, *taps, lanes]; missing lanes are zero."""
    k = KernelBuilder("pack_depthwise")
    w = k.read("w", dtype, tuple(weights))
    blocks = -(-weights[0] // lanes)
    p = k.write("packed", dtype, (blocks, *weights[2:], lanes))
    for cut in segments(weights[0], lanes):
        _pack(k, w, p, cut)
    return k.build()


def _pack(k: KernelBuilder, w: Buffer, packed: Buffer, cut: Segment) -> None:
    (first, blocks, width), lanes = cut, packed.shape[-1]
    taps = {f"m{axis}": extent for axis, extent in enumerate(w.shape[2:])}
    axes = {"c": blocks, **taps}

    def copy(p: Point, _: Expr) -> tuple[Load, Expr]:
        at = [p[t] for t in taps]
        channel = p["c"] * lanes + p["v"] + first
        return packed[(p["c"] + first // lanes, *at, p["v"])], w[(channel, 0, *at)]

    def fill(p: Point, zero: Expr) -> tuple[Load, Expr]:
        block = p["c"] + first // lanes
        return packed[(block, *(p[t] for t in taps), p["v"] + width)], zero

    lower(k, Nest(w.dtype, {**axes, "v": width}, copy), Schedule(("c",), vector=("v", width)))
    if width < lanes:
        rest = Nest(w.dtype, {**axes, "v": lanes - width}, fill)
        lower(k, rest, Schedule(("c",), vector=("v", lanes - width)))


def correlate(
    k: KernelBuilder,
    x: Image,
    w: Buffer,
    y: Image,
    lines: Lines,
    finish: Step,
    target: Target,
) -> None:
    """Append ``y = finish(x correlated with w)``, channel by channel."""
    last = len(lines) - 1
    taps = Taps(lines, last, at_once(target))

    def out_index(p: Point) -> tuple[Affine, ...]:
        at = (line.out_at(p[f"q{a}"]) for a, line in enumerate(lines))
        return (p["n"], p["c"], *at, p["v"])

    def update(p: Point, acc: Expr) -> Expr:
        here = [p[f"q{a}"] for a in range(len(lines))]
        for tap in taps.at(p):
            at = (line.in_at(q, t) for line, q, t in zip(lines, here, tap, strict=True))
            where = (line.weight_at(t) for line, t in zip(lines, tap, strict=True))
            acc = fma(x[(p["n"], p["c"], *at, p["v"])], w[(p["c"], *where, p["v"])], acc)
        return acc

    lanes = x.layout.block
    axes = {"n": x.shape[0], "c": x.blocks}
    axes |= {f"q{a}": line.count for a, line in enumerate(lines)} | {"v": lanes}
    reductions = (taps.loops,) if all(line.taps for line in lines) else ()
    nest = Nest(
        x.buffer.dtype,
        axes,
        lambda p, acc: (y[out_index(p)], finish(acc, out_index(p))),
        update,
        reductions,
    )
    parallel = ("n", "c", *(f"q{axis}" for axis in range(last)))
    lower(k, nest, Schedule(parallel, ((f"q{last}", PIXELS),), ("v", lanes)))


def weight_gradient(k: KernelBuilder, g: Image, x: Image, dw: Buffer, lines: Lines) -> None:
    """Append ``dw[c, 0, m] = sum over n, q of g[n, c, q] * x[n, c, q*s + m*d - lo]``."""
    taps = [f"m{axis}" for axis in range(len(lines))]
    box = {"n": range(g.shape[0])} | {f"q{a}": range(li.count) for a, li in enumerate(lines)}
    lanes = x.layout.block
    for start, count, width in segments(x.shape[1], lanes):

        def update(p: Point, acc: Expr, first: int = start) -> Expr:
            at = (line.in_at(p[f"q{a}"], p[f"m{a}"]) for a, line in enumerate(lines))
            here = (p[f"q{a}"] for a in range(len(lines)))
            block = p["c"] + first // lanes
            return fma(g[(p["n"], block, *here, p["v"])], x[(p["n"], block, *at, p["v"])], acc)

        def store(p: Point, acc: Expr, first: int = start) -> tuple[Load, Expr]:
            channel = p["c"] * lanes + p["v"] + first
            return dw[(channel, 0, *(p[t] for t in taps))], acc

        axes = {"c": count, **{t: li.taps for t, li in zip(taps, lines, strict=True)}, "v": width}
        nest = Nest(g.buffer.dtype, axes, store, update, (box,) if g.shape[0] else ())
        lower(k, nest, Schedule(("c",), tap_tile(lines), ("v", width)))
