"""Direct convolution, the lanes of a vector being output channels.

A register tile holds some pixels times some blocks of channels: each weight vector loaded serves
every pixel, each broadcast input element every block. The taps are run-time loops: unrolled,
neighbouring taps would share broadcasts, and keeping those alive spills the accumulators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

from convc.algorithms.epilogue import Output
from convc.algorithms.geometry import Lines
from convc.backend.target import ITEM_BYTES, Target
from convc.cost import L2
from convc.layout import Image
from convc.schedule import (
    Nest,
    Point,
    RegisterTile,
    Schedule,
    Segment,
    lower,
    register_tile,
    segments,
)
from ir.loops import Affine, Buffer, Kernel, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Load, Scalar

VECTORS_AHEAD = 64  # of weights: what memory delivers while they are multiplied covers its delay


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
    packed = k.write("packed", dtype, channels.packed(weights[2:]))
    for above in segments(channels.out, channels.lanes):
        for below in segments(channels.inner, channels.block):
            _pack(k, w, packed, channels, transposed, above, below)
    return k.build()


def _pack(
    k: KernelBuilder,
    w: Buffer,
    packed: Buffer,
    channels: Channels,
    transposed: bool,
    above: Segment,
    below: Segment,
) -> None:
    """One cut of the vector side by one cut of the summed side."""
    (first, vectors, width), (start, blocks, depth) = above, below
    taps = {f"m{axis}": extent for axis, extent in enumerate(w.shape[2:])}
    axes = {"g": channels.groups, "o": vectors, "b": blocks, **taps, "i": depth}

    def target(p: Point, lane: Affine) -> Load:
        vector = p["g"] * channels.out_blocks + p["o"] + first // channels.lanes
        block = p["b"] + start // channels.block
        return packed[(vector, block, *(p[t] for t in taps), p["i"], lane)]

    def copy(p: Point, _: Expr) -> tuple[Load, Expr]:
        out = p["o"] * channels.lanes + p["v"] + first
        summed = p["b"] * channels.block + p["i"] + start
        rows = (p["g"] * channels.out + out, summed)
        if transposed:
            rows = (p["g"] * channels.inner + summed, out)
        return target(p, p["v"]), w[(*rows, *(p[t] for t in taps))]

    def fill(p: Point, zero: Expr) -> tuple[Load, Expr]:
        return target(p, p["v"] + width), zero

    parallel, missing = ("g", "o", "b"), channels.lanes - width
    lower(k, Nest(w.dtype, {**axes, "v": width}, copy), Schedule(parallel, vector=("v", width)))
    if missing:
        nest = Nest(w.dtype, {**axes, "v": missing}, fill)
        lower(k, nest, Schedule(parallel, vector=("v", missing)))


def correlate(
    k: KernelBuilder,
    x: Image,
    w: Buffer,
    output: Output,
    channels: Channels,
    lines: Lines,
    target: Target,
) -> None:
    """Append ``output`` of the correlation of x with the packed weights w along the lines.

    A plain result is written along its last axis, from transposed register tiles. Of one that is
    pooled, a tile has whole windows.
    """
    window = output.window(len(lines))
    counts = tuple(line.count // wide for line, wide in zip(lines, window, strict=True))
    chosen = register_tile(target, counts[-2:], channels.out_blocks, cells=prod(window))
    if output.y.layout.block == 1 and counts[-1] >= channels.lanes:  # whole lines of the result
        chosen = RegisterTile((*(1 for _ in counts[-2:-1]), channels.lanes), 1, 0.0)
    nest = _nest(x, w, output, channels, lines, chosen)
    names = [f"q{axis}" for axis in range(len(lines))][-2:]
    tile = [*zip(names, chosen.pixels, strict=True), ("o", chosen.blocks)]
    if output.pool:
        tile += [(f"u{axis}", wide) for axis, wide in enumerate(window)]
    parallel = ("n", "g", "o", *(f"q{axis}" for axis in range(len(lines) - 1)))
    lower(k, nest, Schedule(parallel, tuple(tile), ("v", channels.lanes)))


def _nest(
    x: Image,
    w: Buffer,
    output: Output,
    channels: Channels,
    lines: Lines,
    tile: RegisterTile,
) -> Nest:
    window, rank = output.window(len(lines)), len(lines)
    counts = [line.count // wide for line, wide in zip(lines, window, strict=True)]

    def cell(p: Point) -> list[Affine]:
        """The output position, a cell of a window where it is pooled."""
        own = [p[f"q{a}"] for a in range(rank)]
        if not output.pool:
            return own
        return [q * wide + p[f"u{a}"] for a, (q, wide) in enumerate(zip(own, window, strict=True))]

    def index(p: Point, at: Sequence[Affine]) -> tuple[Affine, ...]:
        block = p["g"] * channels.out_blocks + p["o"]
        return (p["n"], block, *(line.out_at(q) for line, q in zip(lines, at, strict=True)), p["v"])

    def update(p: Point, acc: Expr) -> Expr:
        inner = p["g"] * (channels.inner // channels.block) + p["b"]
        taps = [p[f"m{a}"] for a in range(rank)]
        at = (line.in_at(q, m) for line, q, m in zip(lines, cell(p), taps, strict=True))
        where = (line.weight_at(m) for line, m in zip(lines, taps, strict=True))
        block = p["g"] * channels.out_blocks + p["o"]
        return fma(x[(p["n"], inner, *at, p["i"])], w[(block, p["b"], *where, p["i"], p["v"])], acc)

    axes = {"n": x.shape[0], "g": channels.groups, "o": channels.out_blocks}
    axes |= {f"q{a}": count for a, count in enumerate(counts)}
    cells = {f"u{a}": wide for a, wide in enumerate(window)} if output.pool else {}
    nest = Nest(
        x.buffer.dtype,
        axes | cells | {"v": channels.lanes},
        lambda p, value: (output.y[index(p, [p[f"q{a}"] for a in range(rank)])], value),
        update,
        _boxes(channels, [line.taps for line in lines]),
        finish=lambda p, acc: output.finish(acc, index(p, cell(p))),
        pooled=(tuple(cells), output.pooled) if cells else None,
        ahead=_ahead(w, channels, lines, counts, tile) if channels.block > 1 else None,
    )
    return nest if output.y.layout.block > 1 else _across(nest, output.y, channels, lines)


def _across(nest: Nest, y: Image, channels: Channels, lines: Lines) -> Nest:
    """The nest with a plain result, of whose last axis vectors are stored."""

    def channel(p: Point) -> Affine:
        return p["o"] * channels.lanes + p["v"]

    def store(p: Point, value: Expr) -> tuple[Load, Expr]:
        at = (line.out_at(p[f"q{a}"]) for a, line in enumerate(lines))
        return y[(p["n"], p["g"] * channels.out + channel(p), *at, 0)], value

    return replace(
        nest,
        store=store,
        across=f"q{len(lines) - 1}",
        kept=lambda p: [(channel(p), channels.out)],
    )


def _ahead(
    w: Buffer, channels: Channels, lines: Lines, counts: Sequence[int], tile: RegisterTile
) -> tuple[str, Callable[[KernelBuilder, Point], None]]:
    """The loop whose steps prefetch weights, and how.

    Those of the next tile, while this one's serve all pixels, if they are few enough to wait in
    the second-level cache: a part of them at each row of pixels. Else those that the same pixels
    need soon.
    """
    few = tile.blocks * prod(w.shape[1:]) * ITEM_BYTES[w.dtype] <= L2 // 8
    row = max(len(lines) - 2, 0)
    part = -(-channels.block // max(counts[row], 1))  # of a block of channels, at each row

    def ahead(k: KernelBuilder, p: Point) -> None:
        block = p["g"] * channels.out_blocks + p["o"]
        where = [line.weight_at(p[f"m{a}"]) for a, line in enumerate(lines)]
        with (
            k.loop("o", tile.blocks, "unroll") as o,
            k.loop("a", part * tile.pixels[0] if few else 1, "unroll") as a,
            k.loop("v", w.shape[-1], "vector") as v,
        ):
            if few:
                following, first = block + tile.blocks, p[f"q{row}"] * part
                k.prefetch(w[(following + o, p["b"], *where, first + a, v)])
            else:
                k.prefetch(w[(block + o, p["b"], *where, p["i"] + VECTORS_AHEAD, v)])

    return f"m{len(lines) - 1}" if few else "i", ahead


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
