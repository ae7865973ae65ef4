"""Matrix products: y[i, j] = sum over p of op(x)[i, p] * op(w)[p, j]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.epilogue import Epilogue, Step
from convc.schedule import Nest, Point, Schedule, Segment, lower, register_tile, segments
from ir.loops import Affine, Buffer, Kernel, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Load, Scalar
from ir.ops import Dense

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
        return None if isinstance(site.op, Dense) else "only for dense"

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
        assert isinstance(op, Dense)
        rows, columns = site.result
        depth = site.shape(0)[0 if op.transpose_x else 1]
        x = into.read(0)
        w, width = _weights(site, op, depth, columns, into)
        epilogue = Epilogue(site, 1)
        extra = epilogue.operands(into)
        result = into.write()
        k = KernelBuilder("dense")
        left = k.read("x", site.dtype, x.shape)
        right = k.read("w", site.dtype, (-(-columns // width), depth, width))
        finish = epilogue.declare(k, extra)
        y = k.write("y", site.dtype, (rows, columns))
        for panels in segments(columns, width):
            for vectors in segments(panels[2], site.lanes):
                nest = _nest(left, right, y, op.transpose_x, finish, panels, vectors)
                chosen = register_tile(site.target, (rows,), vectors[1], PANEL)
                tile = (("i", chosen.pixels[0]), ("o", chosen.blocks))
                lower(k, nest, Schedule(("b", "i", "o"), tile, ("v", vectors[2])))
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
    depth, width = w.shape[1:]

    def column(p: Point) -> Affine:
        """Within the panel: all vectors but the last are as wide as the first."""
        return p["o"] * lanes + p["v"] + first

    def update(p: Point, acc: Expr) -> Expr:
        element = x[(p["p"], p["i"]) if transposed else (p["i"], p["p"])]
        return fma(element, w[p["b"] + start // width, p["p"], column(p)], acc)

    def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
        j = p["b"] * width + column(p) + start
        return y[p["i"], j], finish(acc, (p["i"], j, 0))

    axes = {"b": count, "i": y.shape[0], "o": vector_count, "v": lanes}
    return Nest(y.dtype, axes, store, update, ({"p": range(depth)},) if depth else ())


def _weights(
    site: Site, op: Dense, depth: int, columns: int, into: Lowering
) -> tuple[Stored, int]:
    """The right operand as [panels, p, width], and that width."""
    whole = max(columns, 1)
    width = min(whole, PANEL * site.lanes)
    if not op.transpose_w and not (into.is_constant(1) and columns > width):
        return into.read(1), whole
    if not into.is_constant(1):
        width = whole

    def pack(plain: Stored) -> Stored:
        kernel = pack_kernel(site.dtype, depth, columns, width, op.transpose_w)
        size = -(-columns // width) * depth * width
        room = into.temporary(f"{site.name}.packed", site.dtype, size)
        into.run(kernel, plain, room, label="pack")
        return room

    return into.derive(1, ("panels", width, op.transpose_w), pack), width


def pack_kernel(
    dtype: Scalar, depth: int, columns: int, width: int, transposed: bool
) -> Kernel:
    """Weights [p, j] (or [j, p]) to panels [j / width, p, width]; columns beyond the last: zero."""
    k = KernelBuilder("pack_panels")
    w = k.read("w", dtype, (columns, depth) if transposed else (depth, columns))
    panels = -(-columns // width)
    packed = k.write("packed", dtype, (panels, depth, width))
    for start, count, size in segments(columns, width):

        def store(p: Point, _: Expr, start: int = start) -> tuple[Load, Expr]:
            j = p["b"] * width + p["j"] + start
            target = packed[p["b"] + start // width, p["p"], p["j"]]
            return target, w[(j, p["p"]) if transposed else (p["p"], j)]

        axes = {"b": count, "p": depth, "j": size}
        tile = (("j", min(size, 8)),) if transposed else ()
        vector = None if transposed else ("j", 8)
        lower(k, Nest(dtype, axes, store), Schedule(("b", "p"), tile, vector))
        if size < width:
            _zero_columns(k, packed, size)
    return k.build()


def _zero_columns(k: KernelBuilder, packed: Buffer, first: int) -> None:
    panels, depth, width = packed.shape
    with k.loop("p", depth, "parallel") as p, k.loop("j", range(first, width)) as j:
        k.store(packed[panels - 1, p, j], k.constant(0, packed.dtype))
