"""Direct convolution, the lanes of a vector being output channels.

A register tile holds some pixels times some blocks of channels: each weight vector loaded serves
every pixel, each broadcast input element every block. The taps are run-time loops: unrolled,
neighbouring taps would share broadcasts, and keeping those alive spills the accumulators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convc.algorithms.direct.geometry import Line, Lines
from convc.layout import Image
from convc.schedule import Nest, Point, Schedule, lower, register_tile, segments
from convc.backend.target import Target
from ir.loops import Affine, Buffer, Kernel, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Scalar

Finish = Callable[[Expr, tuple[Affine, ...]], Expr]  # value, subscript in the result's image


@dataclass(frozen=True)
class Channels:
    """Channels per group on the vector side (``out``) and on the summed side (``inner``)."""

    groups: int
    out: int
    inner: int
    lanes: int
    block: int  # of the summed side's layout

    @property
    def out_blocks(self) -> int:
        return -(-self.out // self.lanes)

    def packed(self, kernel: Sequence[int]) -> tuple[int, ...]:
        """Shape of the packed weights: [out blocks, inner blocks, *taps, inner, lanes]."""
        inner = -(-self.inner // self.block)
        return (self.groups * self.out_blocks, inner, *kernel, self.block, self.lanes)


def pack_kernel(
    dtype: Scalar, weights: Sequence[int], channels: Channels, transposed: bool
) -> Kernel:
    """Weights [K, C/groups, *taps] to vectors of output channels; missing lanes are zero.

    ``transposed`` packs for the input gradient, whose vector side is C and summed side K.
    """
    k = KernelBuilder("pack")
    w = k.read("w", dtype, tuple(weights))
    p = k.write("packed", dtype, channels.packed(weights[2:]))
    taps = {f"m{axis}": extent for axis, extent in enumerate(weights[2:])}
    for start, count, width in segments(channels.out, channels.lanes):
        for first, inners, depth in segments(channels.inner, channels.block):
            axes = {"g": channels.groups, "o": count, "b": inners, **taps, "i": depth}

            def target(point: Point, lane: Affine, at: int = start, inner: int = first):  # type: ignore[no-untyped-def]
                block = point["g"] * channels.out_blocks + point["o"] + at // channels.lanes
                where = [point[t] for t in taps]
                return p[(block, point["b"] + inner // channels.block, *where, point["i"], lane)]

            def store(point: Point, _: Expr, at: int = start, inner: int = first):  # type: ignore[no-untyped-def]
                out = point["o"] * channels.lanes + point["v"] + at
                summed = point["b"] * channels.block + point["i"] + inner
                rows = (
                    (point["g"] * channels.inner + summed, out)
                    if transposed
                    else (point["g"] * channels.out + out, summed)
                )
                return target(point, point["v"], at, inner), w[(*rows, *(point[t] for t in taps))]

            lower(k, Nest(dtype, {**axes, "v": width}, store),
                  Schedule(("g", "o", "b"), vector=("v", width)))  # fmt: skip
            if width < channels.lanes:
                zero = k.constant(0, dtype)
                rest = channels.lanes - width
                nest = Nest(dtype, {**axes, "v": rest},
                            lambda pt, _, f=target, w=width: (f(pt, pt["v"] + w), zero))  # fmt: skip
                lower(k, nest, Schedule(("g", "o", "b"), vector=("v", rest)))
    return k.build()


def correlate(
    k: KernelBuilder,
    x: Image,
    w: Buffer,
    y: Image,
    channels: Channels,
    lines: Lines,
    finish: Finish,
    target: Target,
) -> None:
    """Append ``y = finish(correlation of x with the packed weights w)`` along the lines."""
    nest = _nest(x, w, y, channels, lines, finish)
    counts = tuple(line.count for line in lines)
    pixels, blocks = register_tile(target, counts[-2:], channels.out_blocks)
    names = [f"q{axis}" for axis in range(len(lines))][-2:]
    tile = (*zip(names, pixels, strict=True), ("o", blocks))
    parallel = ("n", "g", "o", *(f"q{axis}" for axis in range(len(lines) - 1)))
    lower(k, nest, Schedule(parallel, tile, ("v", channels.lanes)))


def _nest(
    x: Image, w: Buffer, y: Image, channels: Channels, lines: Lines, finish: Finish
) -> Nest:
    taps = range(len(lines))

    def out_index(p: Point) -> tuple[Affine, ...]:
        block = p["g"] * channels.out_blocks + p["o"]
        return (p["n"], block, *(line.out_at(p[f"q{a}"]) for a, line in enumerate(lines)), p["v"])

    def update(p: Point, acc: Expr) -> Expr:
        inner = p["g"] * (channels.inner // channels.block) + p["b"]
        at = (line.in_at(p[f"q{a}"], p[f"m{a}"]) for a, line in enumerate(lines))
        where = (line.weight_at(p[f"m{a}"]) for a, line in enumerate(lines))
        block = p["g"] * channels.out_blocks + p["o"]
        return fma(x[(p["n"], inner, *at, p["i"])], w[(block, p["b"], *where, p["i"], p["v"])], acc)

    axes = {"n": x.shape[0], "g": channels.groups, "o": channels.out_blocks}
    axes |= {f"q{a}": line.count for a, line in enumerate(lines)} | {"v": channels.lanes}
    return Nest(
        x.buffer.dtype,
        axes,
        lambda p, acc: (y[out_index(p)], finish(acc, out_index(p))),
        update,
        _boxes(channels, [lines[a].taps for a in taps]),
    )


def _boxes(channels: Channels, taps: Sequence[int]) -> tuple[dict[str, range], ...]:
    """The reduction: whole blocks of input channels, then the channels that remain."""
    if 0 in taps:
        return ()
    boxes = []
    for first, blocks, depth in segments(channels.inner, channels.block):
        start = first // channels.block
        box = {"b": range(start, start + blocks)}
        box |= {f"m{axis}": range(extent) for axis, extent in enumerate(taps)}
        boxes.append(box | {"i": range(depth)})
    return tuple(boxes)


def empty(lines: Sequence[Line]) -> bool:
    """Whether no input position contributes."""
    return any(line.taps == 0 for line in lines)
