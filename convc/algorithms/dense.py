"""Matrix products, one or a batch: y[i, j] = sum over p of op(x)[i, p] * op(w)[p, j]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.epilogue import Epilogue, Step
from convc.algorithms.strided import Box, copy, fill
from convc.cost import CLOCK, UNITS, slowness, stream_bytes
from convc.schedule import Nest, Point, Schedule, Segment, lower, register_tile, segments
from ir.loops import Affine, Buffer, Kernel, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Index, Load, Scalar
from ir.ops import MatMul

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored

PANEL = 8  # vectors side by side in a panel of weights, at most
VECTORS_AHEAD = 64  # of weights, that are prefetched
REUSED = 128  # rows from which on it pays to pack weights that are no constants


class Outer:
    """A register tile of rows times vectors of columns, summed over p in order.

    Some vectors of weights serve all rows before the next ones are read. Weights are packed into
    panels of so many vectors, read from end to end, if they are constant, read by many rows, or
    have to be transposed; others are read in place.
    """

    name: ClassVar[str] = "outer"
    reorders_only: ClassVar[bool] = True

    def supports(self, site: Site) -> str | None:
        if not isinstance(site.op, MatMul):
            return "only for products of matrices"
        batches = len(site.result) > 2 and site.epilogue
        return "a batch of products has no epilogue" if batches else None

    def seconds(self, site: Site) -> float:
        cost = site.op.cost(*site.inputs[:2])
        cycles = cost.flops / 2 / site.lanes / UNITS * slowness(site.target)
        return max(cycles / CLOCK, cost.bytes / stream_bytes(cost.bytes))

    def tolerance(self, site: Site) -> float:
        return 1e-5 if site.dtype == "f32" else 1e-12

    def block(self, site: Site, given: Sequence[int]) -> int:
        return 1

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        return AS_PLAIN, AS_PLAIN, *Epilogue(site, 1).wishes()

    def lower(self, site: Site, into: Lowering) -> None:
        op = site.op
        assert isinstance(op, MatMul)
        rows, columns = site.result[-2:]
        x = into.read(0)
        w, panels = _weights(site, op, into)
        epilogue = Epilogue(site, 1)
        extra = epilogue.operands(into)
        result = into.write()
        k = KernelBuilder(op.name)
        left = k.read("x", site.dtype, x.shape)
        right = k.read("w", site.dtype, panels or w.shape)
        finish = epilogue.declare(k, extra)
        y = k.write("y", site.dtype, site.result)
        product = _Product(left, right, y, op.transpose_x, panels is not None, finish)
        width = panels[-1] if panels else PANEL * site.lanes
        for cut in segments(columns, width):
            for vectors in segments(cut[2], site.lanes):
                chosen = register_tile(site.target, (rows,), vectors[1], PANEL)
                once = rows <= chosen.pixels[0]
                nest = product.nest(cut, vectors, fetched=chosen.blocks if once else 0)
                tile = (("i", chosen.pixels[0]), ("o", chosen.blocks))
                tasks = tuple(axis for axis in nest.axes if axis != "v")
                lower(k, nest, Schedule(tasks, tile, ("v", vectors[2])))
        into.run(k.build(), x, w, *extra, result)


@dataclass(frozen=True)
class _Product:
    """The buffers of a product; ``packed`` weights are [*batch, panels, p, width]."""

    x: Buffer
    w: Buffer
    y: Buffer
    transposed: bool
    packed: bool
    finish: Step

    def nest(self, cut: Segment, vectors: Segment, fetched: int) -> Nest:
        """Some panels of columns, and of each panel some vectors: cuts as (start, count, width).

        ``fetched``: how many vectors of packed weights are prefetched at each step.
        """
        (start, panels, width), (first, count, lanes) = cut, vectors
        depth = self.w.shape[-2]
        batch = {f"n{axis}": n for axis, n in enumerate(self.y.shape[:-2])}

        def column(p: Point) -> Affine:
            """Within the panel: all vectors but the last are as wide as the first."""
            return p["o"] * lanes + p["v"] + first

        def weight(p: Point, row: Affine) -> Load:
            lead = [p[axis] for axis in batch]
            if self.packed:
                panel = p["b"] + start // self.w.shape[-1]
                return self.w[(*_aligned(lead, self.w.shape[:-3]), panel, row, column(p))]
            j = p["b"] * width + column(p) + start
            return self.w[(*_aligned(lead, self.w.shape[:-2]), row, j)]

        def update(p: Point, acc: Expr) -> Expr:
            lead = [p[axis] for axis in batch]
            at = (p["p"], p["i"]) if self.transposed else (p["i"], p["p"])
            element = self.x[(*_aligned(lead, self.x.shape[:-2]), *at)]
            return fma(element, weight(p, p["p"]), acc)

        def fetch(k: KernelBuilder, p: Point) -> None:
            later = p["p"] + VECTORS_AHEAD // fetched
            with k.loop("o", fetched, "unroll") as o, k.loop("v", lanes, "vector") as v:
                k.prefetch(weight({**p, "o": p["o"] + o, "v": v}, later))

        def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
            j = p["b"] * width + column(p) + start
            target = self.y[(*(p[axis] for axis in batch), p["i"], j)]
            return target, self.finish(acc, (p["i"], j, 0))

        axes = {**batch, "b": panels, "o": count, "i": self.y.shape[-2], "v": lanes}
        box = ({"p": range(depth)},) if depth else ()
        soon = ("p", fetch) if self.packed and fetched else None
        return Nest(self.y.dtype, axes, store, update, box, ahead=soon)


def _aligned(index: Sequence[Affine], shape: tuple[int, ...]) -> Iterator[Index]:
    """The subscript of an operand that is broadcast along the axes where its extent is 1."""
    own = index[len(index) - len(shape) :]
    return (0 if n == 1 else i for i, n in zip(own, shape, strict=True))


def _weights(site: Site, op: MatMul, into: Lowering) -> tuple[Stored, tuple[int, ...] | None]:
    """The right operand, and its shape [*batch, panels, p, width] where it is packed."""
    *batch, depth, columns = site.shape(1)
    if op.transpose_w:
        depth, columns = columns, depth
    together = register_tile(site.target, site.result[-2:-1], PANEL, PANEL).blocks
    width = min(max(columns, 1), together * site.lanes)
    reused = site.result[-2] >= REUSED or into.is_constant(1)
    if not op.transpose_w and not (reused and columns > width):
        return into.read(1), None
    panels = (*batch, -(-columns // width), depth, width)

    def pack(plain: Stored) -> Stored:
        shape = prod(batch), depth, columns
        kernel = pack_kernel(site.dtype, shape, width, op.transpose_w, site.lanes)
        room = into.temporary(f"{site.name}.packed", site.dtype, prod(panels))
        into.run(kernel, plain, room, label="pack")
        return room

    return into.derive(1, ("panels", width, op.transpose_w), pack), panels


def pack_kernel(
    dtype: Scalar, shape: tuple[int, int, int], width: int, transposed: bool, lanes: int
) -> Kernel:
    """Matrices [p, j] (or [j, p]), each to panels [j / width, p, width]; columns beyond the last
    are zero. ``shape``: how many matrices, their depth, their columns."""
    count, depth, columns = shape
    k = KernelBuilder("pack_panels")
    w = k.read("w", dtype, (prod(shape),))
    room = (count, -(-columns // width), depth, width)
    packed = k.write("packed", dtype, (prod(room),))
    down, across = (1, depth) if transposed else (columns, 1)
    for start, blocks, size in segments(columns, width):
        first, ones = start // width, (1, 1, 1, 1)
        target = Box.whole(room).cut((0, first, 0, 0), (count, blocks, depth, size), ones)
        steps = (depth * columns, width * across, down, across)
        copy(k, packed, target, w, Box(target.extents, start * across, steps), lanes)
        if size < width:
            beyond = (count, 1, depth, width - size)
            fill(k, packed, Box.whole(room).cut((0, first, 0, size), beyond, ones), 0, lanes)
    return k.build()
