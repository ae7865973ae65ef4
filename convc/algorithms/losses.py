"""Softmax and the losses: plain data seen as [outer, classes, inner]."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.algorithms.base import Site
from convc.algorithms.movement import PlainData
from convc.schedule import Nest, Point, Schedule, lower, segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import call, fma, maximum, select
from ir.loops.nodes import Expr, Position
from ir.ops import (
    CrossEntropy,
    CrossEntropyGrad,
    Softmax,
    SoftmaxCrossEntropy,
    SoftmaxCrossEntropyGrad,
    SoftmaxGrad,
    SquaredLoss,
)

if TYPE_CHECKING:
    from convc.lowering import Lowering

View = tuple[int, int, int]
Place = tuple[Affine, Affine, Affine]  # outer, first inner position of the vector, lane


def _view(shape: tuple[int, ...], axis: int) -> View:
    return prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])


class AlongClasses(PlainData):
    """Each position's classes in turn; the lanes of a vector are neighbouring positions."""

    name: ClassVar[str] = "classes"

    def supports(self, site: Site) -> str | None:
        ops = (Softmax, SoftmaxGrad, CrossEntropyGrad, SoftmaxCrossEntropyGrad)
        return None if isinstance(site.op, ops) else "only for softmax and gradients of losses"

    def tolerance(self, site: Site) -> float:
        return 3e-6 if site.dtype == "f32" else 1e-13

    def lower(self, site: Site, into: Lowering) -> None:
        operands, result = [into.read(i) for i in range(len(site.inputs))], into.write()
        op = site.op
        axis = op.axis if isinstance(op, Softmax | SoftmaxGrad) else 1
        view = _view(site.result, axis)
        k = KernelBuilder(op.name)
        x = k.read("x", site.dtype, view)
        if isinstance(op, Softmax):
            _softmax(k, x, k.write("y", site.dtype, view), site.lanes)
        elif isinstance(op, SoftmaxGrad):
            g = k.read("g", site.dtype, view)
            _softmax_grad(k, x, g, k.write("dx", site.dtype, view), site.lanes)
        else:
            labels = k.read("labels", "i64", (view[0], view[2]))
            g = k.read("g", site.dtype, (1,))
            dx = k.write("dx", site.dtype, view)
            _label_grad(k, x, labels, g, dx, isinstance(op, SoftmaxCrossEntropyGrad), site.lanes)
        into.run(k.build(), *operands, result)


class Total(PlainData):
    """A loss: one number, summed in order by one task."""

    name: ClassVar[str] = "total"

    def supports(self, site: Site) -> str | None:
        ops = (CrossEntropy, SoftmaxCrossEntropy, SquaredLoss)
        return None if isinstance(site.op, ops) else "only for losses"

    def lower(self, site: Site, into: Lowering) -> None:
        operands, result = [into.read(i) for i in range(2)], into.write()
        k = KernelBuilder(site.op.name)
        if isinstance(site.op, SquaredLoss):
            size = prod(site.shape(0))
            a, y = (k.read(name, site.dtype, (size,)) for name in "ay")
            loss = k.write("loss", site.dtype, (1,))
            _squared_loss(k, a, y, loss)
        else:
            view = _view(site.shape(0), 1)
            x = k.read("x", site.dtype, view)
            labels = k.read("labels", "i64", (view[0], view[2]))
            _label_loss(k, x, labels, k.write("loss", site.dtype, (1,)),
                        isinstance(site.op, SoftmaxCrossEntropy))  # fmt: skip
        into.run(k.build(), *operands, result)


def _squared_loss(k: KernelBuilder, a: Buffer, y: Buffer, loss: Buffer) -> None:
    def update(p: Point, acc: Expr) -> Expr:
        difference = a[p["i"]] - y[p["i"]]
        return fma(difference, difference, acc)

    box = ({"i": range(a.shape[0])},) if a.shape[0] else ()
    lower(k, Nest(a.dtype, {}, lambda p, acc: (loss[0], acc), update, box), Schedule())


@contextmanager
def _sum_to(k: KernelBuilder, result: Buffer, count: int) -> Iterator[Buffer]:
    """An accumulator; its value divided by ``count`` is stored at the end. One task in all."""
    with k.loop("once", 1, "parallel"):
        total = k.local("total", result.dtype, (1,))
        k.store(total[0], k.constant(0, result.dtype))
        yield total
        k.store(result[0], total[0] / k.constant(max(count, 1), result.dtype))


def _places(k: KernelBuilder, view: View, lanes: int) -> Iterator[tuple[Affine, Affine, int]]:
    """Loops over outer and inner positions: yields (outer, inner start, vector width)."""
    outer, _, inner = view
    for first, trips, width in segments(inner, lanes):
        with k.loop("n", outer, "parallel") as n, k.loop("s", trips) as s:
            yield n, s * width + first, width


def _peak_and_total(
    k: KernelBuilder, x: Buffer, n: Affine, start: Affine, width: int
) -> tuple[Buffer, Buffer]:
    """Per lane, the largest of the classes and the sum of exp(x - largest)."""
    top, total = k.local("top", x.dtype, (width,)), k.local("sum", x.dtype, (width,))
    with k.loop("v", width, "vector") as v:
        k.store(top[v], k.constant(-np.inf, x.dtype))
        k.store(total[v], k.constant(0, x.dtype))
    with k.loop("c", x.shape[1]) as c, k.loop("v", width, "vector") as v:
        k.store(top[v], maximum(top[v], x[n, c, start + v]))
    with k.loop("c", x.shape[1]) as c, k.loop("v", width, "vector") as v:
        k.store(total[v], total[v] + call("exp", x[n, c, start + v] - top[v]))
    return top, total


def _softmax(k: KernelBuilder, x: Buffer, y: Buffer, lanes: int) -> None:
    for n, start, width in _places(k, _as_view(x), lanes):
        top, total = _peak_and_total(k, x, n, start, width)
        with k.loop("c", x.shape[1]) as c, k.loop("v", width, "vector") as v:
            power = call("exp", x[n, c, start + v] - top[v])
            k.store(y[n, c, start + v], power / total[v])


def _softmax_grad(k: KernelBuilder, y: Buffer, g: Buffer, dx: Buffer, lanes: int) -> None:
    for n, start, width in _places(k, _as_view(y), lanes):
        total = k.local("sum", y.dtype, (width,))
        with k.loop("v", width, "vector") as v:
            k.store(total[v], k.constant(0, y.dtype))
        with k.loop("c", y.shape[1]) as c, k.loop("v", width, "vector") as v:
            k.store(total[v], total[v] + g[n, c, start + v] * y[n, c, start + v])
        with k.loop("c", y.shape[1]) as c, k.loop("v", width, "vector") as v:
            here = (n, c, start + v)
            k.store(dx[here], y[here] * (g[here] - total[v]))


def _label_grad(
    k: KernelBuilder, x: Buffer, labels: Buffer, g: Buffer, dx: Buffer, logits: bool, lanes: int
) -> None:
    count = k.constant(max(x.shape[0] * x.shape[2], 1), x.dtype)
    one, zero = k.constant(1, x.dtype), k.constant(0, x.dtype)
    for n, start, width in _places(k, _as_view(x), lanes):
        top, total = _peak_and_total(k, x, n, start, width) if logits else (None, None)
        with k.loop("c", x.shape[1]) as c, k.loop("v", width, "vector") as v:
            here = (n, c, start + v)
            hit = call("eq", labels[n, start + v], Position(c))
            if top and total:
                p = call("exp", x[here] - top[v]) / total[v]
                value: Expr = (p - select(hit, one, zero)) * (g[0] / count)
            else:
                value = select(hit, call("neg", g[0]) / (x[here] * count), zero)
            k.store(dx[here], value)


def _label_loss(
    k: KernelBuilder, x: Buffer, labels: Buffer, loss: Buffer, logits: bool
) -> None:
    outer, _, inner = x.shape
    with _sum_to(k, loss, outer * inner) as sums, k.loop("n", outer) as n:
        row = k.local("row", x.dtype, (1,))
        k.store(row[0], k.constant(0, x.dtype))
        _label_losses(k, x, labels, n, logits, row)
        k.store(sums[0], sums[0] + row[0])


def _label_losses(
    k: KernelBuilder, x: Buffer, labels: Buffer, n: Affine, logits: bool, row: Buffer
) -> None:
    """Add the losses of one example's positions to ``row``."""
    _, classes, inner = x.shape
    with k.loop("s", inner) as s:
        picked = k.local("picked", x.dtype, (1,))
        k.store(picked[0], k.constant(np.nan, x.dtype))
        with k.loop("c", classes) as c:
            hit = call("eq", labels[n, s], Position(c))
            k.store(picked[0], select(hit, x[n, c, s], picked[0]))
        if logits:
            top, total = _peak_and_total(k, x, n, s, 1)
            value: Expr = call("log", total[0]) + (top[0] - picked[0])
        else:
            value = call("neg", call("log", picked[0]))
        k.store(row[0], row[0] + value)


def _as_view(buffer: Buffer) -> View:
    outer, classes, inner = buffer.shape
    return outer, classes, inner
