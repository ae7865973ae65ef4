"""The weight gradient with output channels in the lanes: dw[k, c, m] = sum of g * x.

The register tile is some input channels times some vectors of output channels; the reduction
walks the batch and the output positions, reading a vector of g and broadcasting x.
"""

from __future__ import annotations

from convc.algorithms.geometry import Lines
from convc.backend.target import Target
from convc.layout import Image
from convc.schedule import Nest, Point, Schedule, lower, register_tile, segments
from ir.loops import Buffer, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Load


def weight_gradient(
    k: KernelBuilder, g: Image, x: Image, dw: Buffer, groups: int, lines: Lines, target: Target
) -> None:
    """Append the kernel's nests: whole vectors of K, then the lanes that remain.

    g is blocked by the vector width, x by any block; dw is [K blocks, C/groups, *taps, lanes].
    """
    lanes, block = g.layout.block, x.layout.block
    out, inner = g.shape[1] // groups, x.shape[1] // groups
    for first, vectors, width in segments(out, lanes):
        for start, blocks, depth in segments(inner, block):
            nest = _nest(g, x, dw, groups, lines, (first, vectors, width), (start, blocks, depth))
            channels = depth if block > 1 else blocks
            taps = lines[-1].taps
            chosen = register_tile(target, (taps, channels), vectors)
            tap, channel = chosen.pixels
            last = f"m{len(lines) - 1}"
            tile = ((last, tap), ("i" if block > 1 else "b", channel), ("o", chosen.blocks))
            parallel = ("g", "o", "b", *(f"m{axis}" for axis in range(len(lines))))
            lower(k, nest, Schedule(parallel, tile, ("v", width)))


def _nest(
    g: Image,
    x: Image,
    dw: Buffer,
    groups: int,
    lines: Lines,
    above: tuple[int, int, int],
    below: tuple[int, int, int],
) -> Nest:
    """One cut of K by one cut of C; each cut is (first channel, blocks, width)."""
    (first, vectors, width), (start, blocks, depth) = above, below
    lanes, block = g.layout.block, x.layout.block
    out, inner = g.shape[1] // groups, x.shape[1] // groups
    taps = [f"m{axis}" for axis in range(len(lines))]

    def update(p: Point, acc: Expr) -> Expr:
        at = (line.in_at(p[f"q{a}"], p[f"m{a}"]) for a, line in enumerate(lines))
        here = (p[f"q{a}"] for a in range(len(lines)))
        vector = p["g"] * (out // lanes) + p["o"] + first // lanes
        source = p["g"] * (inner // block) + p["b"] + start // block
        return fma(x[(p["n"], source, *at, p["i"])], g[(p["n"], vector, *here, p["v"])], acc)

    def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
        vector = p["g"] * -(-out // lanes) + p["o"] + first // lanes
        column = p["b"] * block + p["i"] + start
        return dw[(vector, column, *(p[t] for t in taps), p["v"])], acc

    axes: dict[str, int] = {"g": groups, "o": vectors, "b": blocks}
    axes |= {t: line.taps for t, line in zip(taps, lines, strict=True)}
    axes |= {"i": depth, "v": width}
    box = {"n": range(g.shape[0])} | {f"q{a}": range(li.count) for a, li in enumerate(lines)}
    return Nest(g.buffer.dtype, axes, store, update, (box,) if g.shape[0] else ())


