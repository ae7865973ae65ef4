"""Matrix products, one or a batch: y[i, j] = sum over p of op(x)[i, p] * op(w)[p, j]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.epilogue import Epilogue, Step
from convc.schedule import Nest, Point, Schedule, Segment, lower, register_tile, segments
from ir.loops import Affine, Buffer, Kernel, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Index, Load, Scalar
from ir.ops import MatMul

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored

PANEL = 8  # vectors side by side in packed weights


class Outer:
    """A register tile of rows times vectors of columns, summed over p in order.

    Constant weights are packed into panels that are read from end to end; others are read in
    place, or transposed first where their rows run along p.
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
        return max(cost.flops / 100e9, cost.bytes / 10e9)

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
        right = k.read("w", site.dtype, panels)
        finish = epilogue.declare(k, extra)
        y = k.write("y", site.dtype, site.result)
        for cut in segments(columns, panels[-1]):
            for vectors in segments(cut[2], site.lanes):
                nest = _nest(left, right, y, op.transpose_x, finish, cut, vectors)
                chosen = register_tile(site.target, (rows,), vectors[1], PANEL)
                tile = (("i", chosen.pixels[0]), ("o", chosen.blocks))
                batch = tuple(axis for axis in nest.axes if axis.startswith("n"))
                lower(k, nest, Schedule((*batch, "b", "i", "o"), tile, ("v", vectors[2])))
        into.run(k.build(), x, w, *extra, result)


def _nest(
    x: Buffer,
    w: Buffer,
    y: Buffer,
    transposed: bool,
    finish: Step,
    panels: Segment,
    vectors: Segment,
) -> Nest:
    """Some panels of columns, and of each panel some vectors: cuts as (start, count, width)."""
    (start, count, _), (first, vector_count, lanes) = panels, vectors
    depth, width = w.shape[-2:]
    batch = {f"n{axis}": n for axis, n in enumerate(y.shape[:-2])}

    def column(p: Point) -> Affine:
        """Within the panel: all vectors but the last are as wide as the first."""
        return p["o"] * lanes + p["v"] + first

    def update(p: Point, acc: Expr) -> Expr:
        lead = [p[axis] for axis in batch]
        at = (p["p"], p["i"]) if transposed else (p["i"], p["p"])
        element = x[(*_aligned(lead, x.shape[:-2]), *at)]
        panel = p["b"] + start // width
        weight = w[(*_aligned(lead, w.shape[:-3]), panel, p["p"], column(p))]
        return fma(element, weight, acc)

    def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
        j = p["b"] * width + column(p) + start
        return y[(*(p[axis] for axis in batch), p["i"], j)], finish(acc, (p["i"], j, 0))

    axes = {**batch, "b": count, "i": y.shape[-2], "o": vector_count, "v": lanes}
    return Nest(y.dtype, axes, store, update, ({"p": range(depth)},) if depth else ())


def _aligned(index: Sequence[Affine], shape: tuple[int, ...]) -> Iterator[Index]:
    """The subscript of an operand that is broadcast along the axes where its extent is 1."""
    own = index[len(index) - len(shape) :]
    return (0 if n == 1 else i for i, n in zip(own, shape, strict=True))


def _weights(site: Site, op: MatMul, into: Lowering) -> tuple[Stored, tuple[int, ...]]:
    """The right operand as [*batch, panels, p, width], and that shape."""
    *batch, depth, columns = site.shape(1)
    if op.transpose_w:
        depth, columns = columns, depth
    whole = max(columns, 1)
    width = min(whole, PANEL * site.lanes)
    constant = into.is_constant(1) and columns > width
    if not op.transpose_w and not constant:
        return into.read(1), (*batch, -(-columns // whole), depth, whole)
    if not into.is_constant(1):
        width = whole
    panels = (*batch, -(-columns // width), depth, width)

    def pack(plain: Stored) -> Stored:
        kernel = pack_kernel(site.dtype, prod(batch), depth, columns, width, op.transpose_w)
        room = into.temporary(f"{site.name}.packed", site.dtype, prod(panels))
        into.run(kernel, plain, room, label="pack")
        return room

    return into.derive(1, ("panels", width, op.transpose_w), pack), panels


def pack_kernel(
    dtype: Scalar, count: int, depth: int, columns: int, width: int, transposed: bool
) -> Kernel:
    """Matrices [p, j] (or [j, p]), each to panels [j / width, p, width]; columns beyond the last
    are zero."""
    k = KernelBuilder("pack_panels")
    w = k.read("w", dtype, (count, columns, depth) if transposed else (count, depth, columns))
    panels = -(-columns // width)
    packed = k.write("packed", dtype, (count, panels, depth, width))
    for start, blocks, size in segments(columns, width):

        def store(p: Point, _: Expr, start: int = start) -> tuple[Load, Expr]:
            j = p["b"] * width + p["j"] + start
            target = packed[p["n"], p["b"] + start // width, p["p"], p["j"]]
            return target, w[(p["n"], j, p["p"]) if transposed else (p["n"], p["p"], j)]

        axes = {"n": count, "b": blocks, "p": depth, "j": size}
        tile = (("j", min(size, 8)),) if transposed else ()
        vector = None if transposed else ("j", 8)
        lower(k, Nest(dtype, axes, store), Schedule(("n", "b", "p"), tile, vector))
        if size < width:
            _zero_columns(k, packed, size)
    return k.build()


def _zero_columns(k: KernelBuilder, packed: Buffer, first: int) -> None:
    count, panels, depth, width = packed.shape
    with (
        k.loop("n", count, "parallel") as n,
        k.loop("p", depth, "parallel") as p,
        k.loop("j", range(first, width)) as j,
    ):
        k.store(packed[n, panels - 1, p, j], k.constant(0, packed.dtype))
