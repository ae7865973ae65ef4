"""Losses: one number, the sum of what each element or position contributes."""

from __future__ import annotations

from collections.abc import Callable
from math import nan, prod
from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import Site
from convc.algorithms.movement import PlainData
from convc.algorithms.softmax import add, folded, positions, view
from convc.schedule import segments
from ir.loops import Buffer, KernelBuilder
from ir.loops.builder import call, select
from ir.loops.nodes import Expr
from ir.ops import CrossEntropy, SoftmaxCrossEntropy, SquaredLoss

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored

PIECE = 4096  # terms that a task adds up


class Total(PlainData):
    """A loss: terms are added up in pieces, and the pieces again, in one order on any threads."""

    name: ClassVar[str] = "total"

    def supports(self, site: Site) -> str | None:
        ops = (CrossEntropy, SoftmaxCrossEntropy, SquaredLoss)
        return None if isinstance(site.op, ops) else "only for losses"

    def lower(self, site: Site, into: Lowering) -> None:
        operands, result = [into.read(i) for i in range(2)], into.write()
        if isinstance(site.op, SquaredLoss):
            _add_up(site, into, operands, prod(site.shape(0)), _squared_difference, 1, result)
            return
        outer, classes, inner = view(site.shape(0), 1)
        count = outer * inner
        terms = into.temporary("losses", site.dtype, count)
        k = KernelBuilder(site.op.name)
        x = k.read("x", site.dtype, (outer, classes, inner))
        labels = k.read("labels", "i64", (outer, inner))
        y = k.write("losses", site.dtype, (outer, inner))
        if count:
            _label_losses(k, x, labels, y, isinstance(site.op, SoftmaxCrossEntropy), site.lanes)
        into.run(k.build(), *operands, terms)
        _add_up(site, into, [terms], count, lambda a: a, max(count, 1), result)


def _squared_difference(a: Expr, y: Expr) -> Expr:
    return (a - y) * (a - y)


def _add_up(
    site: Site, into: Lowering, operands: list[Stored], size: int,
    term: Callable[..., Expr], count: int, result: Stored,
) -> None:  # fmt: skip
    """The sum of ``term`` of every element of the operands, divided by ``count``."""
    pieces = -(-size // PIECE)
    if pieces > 1:
        sums = into.temporary("sums", site.dtype, pieces)
        _sum_pieces(site, into, operands, (size, PIECE), term, 1, sums)
        _add_up(site, into, [sums], pieces, lambda a: a, count, result)
    else:
        _sum_pieces(site, into, operands, (size, max(size, 1)), term, count, result)


def _sum_pieces(
    site: Site, into: Lowering, operands: list[Stored], sizes: tuple[int, int],
    term: Callable[..., Expr], count: int, result: Stored,
) -> None:  # fmt: skip
    """The sum of each piece, divided by ``count``; that of nothing is 0."""
    size, piece = sizes
    k = KernelBuilder("sum")
    buffers = [k.read("x", site.dtype, (size,)) for _ in operands]
    y = k.write("sums", site.dtype, (max(-(-size // piece), 1),))
    for start, trips, width in segments(max(size, 1), piece):
        with k.loop("piece", trips, "parallel") as p:
            total = k.local("total", site.dtype, (site.lanes,))
            with k.loop("v", site.lanes, "vector") as v:
                k.store(total[v], k.constant(0, site.dtype))
            for first, steps, lanes in segments(min(width, size), site.lanes):
                with k.loop("i", steps) as i, k.loop("v", lanes, "vector") as v:
                    at = p * piece + i * lanes + v + (start + first)
                    k.store(total[v], total[v] + term(*(x[at] for x in buffers)))
            whole = folded(k, total, add)
            k.store(y[p + start // piece], whole[0] / k.constant(count, site.dtype))
    into.run(k.build(), *operands, result)


def _label_losses(
    k: KernelBuilder, x: Buffer, labels: Buffer, losses: Buffer, logits: bool, lanes: int
) -> None:
    """-log of the probability of the label; NaN for a label that is no class."""
    outer, classes, inner = x.shape
    for at in positions(k, (outer, classes, inner), lanes):
        picked = at.start("picked", x.dtype, nan)
        for e in at.sweep():
            hit = call("eq", labels[e.position], e.number)
            k.store(picked[e.lane], select(hit, x[e.index], picked[e.lane]))
        picked = at.finish(picked, _known)
        top, total = at.peak_and_total(x) if logits else (picked, picked)
        with k.loop("v", at.width or 1, "vector") as v:
            log = call("log", total[v])
            loss = log + (top[v] - picked[v]) if logits else call("neg", log)
            k.store(losses[at.outer, at.inner + v], loss)


def _known(a: Expr, b: Expr) -> Expr:
    """The one of two numbers that is not NaN, if any."""
    return select(call("isnan", a), b, a)
