"""Softmax and its relations: positions that each have a number of classes.

Data are seen as [outer, classes, inner]. Where there are inner positions, the lanes of a vector are
neighbouring positions; where there are none, they are neighbouring classes of one position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import Site
from convc.algorithms.movement import PlainData
from convc.schedule import segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import call, select
from ir.loops.nodes import Expr, Load, Position, Scalar
from ir.ops import (
    CrossEntropyGrad,
    LogSoftmax,
    Softmax,
    SoftmaxCrossEntropyGrad,
    SoftmaxGrad,
)

if TYPE_CHECKING:
    from convc.lowering import Lowering

Shape = tuple[int, int, int]
Combine = Callable[[Expr, Expr], Expr]


def view(shape: tuple[int, ...], axis: int) -> Shape:
    """Outer positions, classes, inner positions."""
    return prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])


@dataclass(frozen=True)
class Element:
    """A class at a position: its subscript, and the lane it is computed in."""

    index: tuple[Affine, Affine, Affine]
    lane: Affine

    @property
    def number(self) -> Position:
        """The class."""
        return Position(self.index[1])

    @property
    def position(self) -> tuple[Affine, Affine]:
        """Without the class."""
        return self.index[0], self.index[2]


@dataclass(frozen=True)
class Positions:
    """Some positions that a vector, or one position that a row of vectors, has classes for."""

    k: KernelBuilder
    shape: Shape
    lanes: int
    outer: Affine
    inner: Affine
    width: int  # positions at once; 0 where the lanes are classes

    def sweep(self) -> Iterator[Element]:
        """Every class at these positions."""
        k, classes = self.k, self.shape[1]
        if self.width:
            with k.loop("c", classes) as c, k.loop("v", self.width, "vector") as v:
                yield Element((self.outer, c, self.inner + v), v)
            return
        for first, trips, width in segments(classes, self.lanes):
            with k.loop("c", trips) as c, k.loop("v", width, "vector") as v:
                yield Element((self.outer, c * width + v + first, self.inner), v)

    def start(self, name: str, dtype: Scalar, value: float) -> Buffer:
        """An accumulator for each lane."""
        total = self.k.local(name, dtype, (self.width or self.lanes,))
        with self.k.loop("v", total.shape[0], "vector") as v:
            self.k.store(total[v], self.k.constant(value, dtype))
        return total

    def finish(self, total: Buffer, combine: Combine) -> Buffer:
        """The accumulator of each position; ``at`` subscripts it."""
        return total if self.width else folded(self.k, total, combine)

    def at(self, total: Buffer, element: Element) -> Load:
        """What was accumulated for the position of an element."""
        return total[element.lane if self.width else 0]

    def peak(self, x: Buffer) -> Buffer:
        """The largest of the classes; a NaN among them is passed over."""
        top = self.start("top", x.dtype, -inf)
        for e in self.sweep():
            self.k.store(top[e.lane], larger(top[e.lane], x[e.index]))
        return self.finish(top, larger)

    def peak_and_total(self, x: Buffer) -> tuple[Buffer, Buffer]:
        """The largest of the classes and the sum of exp(x - largest), NaN if any class is."""
        top, total = self.peak(x), self.start("sum", x.dtype, 0)
        for e in self.sweep():
            power = call("exp", x[e.index] - self.at(top, e))
            self.k.store(total[e.lane], total[e.lane] + power)
        return top, self.finish(total, add)


def positions(k: KernelBuilder, shape: Shape, lanes: int) -> Iterator[Positions]:
    """Loops over all positions, whose iterations are tasks."""
    outer, _, inner = shape
    for first, trips, width in segments(inner, lanes) if inner > 1 else [(0, 1, 0)]:
        with ExitStack() as loops:
            n = loops.enter_context(k.loop("n", outer, "parallel"))
            s = loops.enter_context(k.loop("s", trips, "parallel"))
            yield Positions(k, shape, lanes, n, s * width + first, width)


def folded(k: KernelBuilder, values: Buffer, combine: Combine) -> Buffer:
    """One number from those of a power of two lanes, halving them."""
    while values.shape[0] > 1:
        half = values.shape[0] // 2
        rest = k.local(f"{values.name}_{half}", values.dtype, (half,))
        with k.loop("v", half, "vector") as v:
            k.store(rest[v], combine(values[v], values[v + half]))
        values = rest
    return values


def larger(a: Expr, b: Expr) -> Expr:
    """The larger of two numbers; the first where the second is NaN."""
    return select(call("lt", a, b), b, a)


def add(a: Expr, b: Expr) -> Expr:
    """Their sum."""
    return a + b


class AlongClasses(PlainData):
    """Softmax and gradients of losses: each position's classes in turn."""

    name: ClassVar[str] = "classes"

    def supports(self, site: Site) -> str | None:
        ops = (Softmax, SoftmaxGrad, LogSoftmax, CrossEntropyGrad, SoftmaxCrossEntropyGrad)
        return None if isinstance(site.op, ops) else "only for softmax and gradients of losses"

    def tolerance(self, site: Site) -> float:
        return 3e-6 if site.dtype == "f32" else 1e-13

    def lower(self, site: Site, into: Lowering) -> None:
        operands, result = [into.read(i) for i in range(len(site.inputs))], into.write()
        op = site.op
        axis = op.axis if isinstance(op, Softmax | SoftmaxGrad | LogSoftmax) else 1
        shape = view(site.result, axis)
        k = KernelBuilder(op.name)
        x = k.read("x", site.dtype, shape)
        if isinstance(op, Softmax):
            _softmax(k, x, k.write("y", site.dtype, shape), site.lanes)
        elif isinstance(op, LogSoftmax):
            _log_softmax(k, x, k.write("y", site.dtype, shape), site.lanes)
        elif isinstance(op, SoftmaxGrad):
            g = k.read("g", site.dtype, shape)
            _softmax_grad(k, x, g, k.write("dx", site.dtype, shape), site.lanes)
        else:
            labels = k.read("labels", "i64", (shape[0], shape[2]))
            g = k.read("g", site.dtype, (1,))
            dx = k.write("dx", site.dtype, shape)
            _label_grad(k, x, labels, g, dx, isinstance(op, SoftmaxCrossEntropyGrad), site.lanes)
        into.run(k.build(), *operands, result)


def _softmax(k: KernelBuilder, x: Buffer, y: Buffer, lanes: int) -> None:
    """The result keeps the powers until their sum is known."""
    for at in positions(k, _shape(x), lanes):
        top, total = at.peak(x), at.start("sum", x.dtype, 0)
        for e in at.sweep():
            k.store(y[e.index], call("exp", x[e.index] - at.at(top, e)))
            k.store(total[e.lane], total[e.lane] + y[e.index])
        total = at.finish(total, add)
        for e in at.sweep():
            k.store(y[e.index], y[e.index] / at.at(total, e))


def _log_softmax(k: KernelBuilder, x: Buffer, y: Buffer, lanes: int) -> None:
    for at in positions(k, _shape(x), lanes):
        top, total = at.peak_and_total(x)
        with k.loop("v", total.shape[0], "vector") as v:
            k.store(total[v], call("log", total[v]))
        for e in at.sweep():
            k.store(y[e.index], x[e.index] - at.at(top, e) - at.at(total, e))


def _softmax_grad(k: KernelBuilder, y: Buffer, g: Buffer, dx: Buffer, lanes: int) -> None:
    for at in positions(k, _shape(y), lanes):
        total = at.start("sum", y.dtype, 0)
        for e in at.sweep():
            k.store(total[e.lane], total[e.lane] + g[e.index] * y[e.index])
        total = at.finish(total, add)
        for e in at.sweep():
            k.store(dx[e.index], y[e.index] * (g[e.index] - at.at(total, e)))


def _label_grad(
    k: KernelBuilder, x: Buffer, labels: Buffer, g: Buffer, dx: Buffer, logits: bool, lanes: int
) -> None:
    outer, _, inner = x.shape
    count = k.constant(max(outer * inner, 1), x.dtype)
    one, zero = k.constant(1, x.dtype), k.constant(0, x.dtype)
    for at in positions(k, _shape(x), lanes):
        top, total = at.peak_and_total(x) if logits else (x, x)
        for e in at.sweep():
            hit = call("eq", labels[e.position], e.number)
            if logits:
                p = call("exp", x[e.index] - at.at(top, e)) / at.at(total, e)
                value: Expr = (p - select(hit, one, zero)) * (g[0] / count)
            else:
                value = select(hit, call("neg", g[0]) / (x[e.index] * count), zero)
            k.store(dx[e.index], value)


def _shape(buffer: Buffer) -> Shape:
    outer, classes, inner = buffer.shape
    return outer, classes, inner
