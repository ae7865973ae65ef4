"""Ops on indices: picking elements, adding up where indices say, finding extremes.

Plain data seen as [outer, along the axis, inner]. An index is clamped into its axis by the kernel
language, so one that is wrong reads or writes some other element of the buffer and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import Site
from convc.algorithms.movement import PlainData
from convc.algorithms.strided import walk
from convc.schedule import segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import call, select
from ir.loops.nodes import Clamped, Expr, Position, Scalar
from ir.ops import ArgMax, ArgMin, Take, TakeAlong, TakeAlongGrad, TakeGrad

if TYPE_CHECKING:
    from convc.lowering import Lowering

Lookup = Callable[[Affine, Affine, Affine], Clamped]  # outer, number, inner
STRIPE = 64  # neighbours whose column a task adds up
View = tuple[int, int, int]


def view(shape: tuple[int, ...], axis: int) -> View:
    """The extents before, along and after an axis."""
    return prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])


class Gather(PlainData):
    """An element of the operand for each element of the result, its place read from an index."""

    name: ClassVar[str] = "gather"

    def supports(self, site: Site) -> str | None:
        return None if isinstance(site.op, Take | TakeAlong) else "only for picking by index"

    def lower(self, site: Site, into: Lowering) -> None:
        op = site.op
        assert isinstance(op, Take | TakeAlong)
        operands, result = [into.read(0), into.read(1)], into.write()
        k = KernelBuilder(op.name)
        x = k.read("x", site.dtype, view(site.shape(0), op.axis))
        taken = view(site.result, op.axis)
        find = _lookup(k, taken, isinstance(op, Take))
        y = k.write("y", site.dtype, taken)

        def body(at: tuple[Affine, ...], _: Affine) -> None:
            outer, number, inner = at if taken[2] > 1 else (*at, Affine())
            k.store(y[outer, number, inner], x[outer, find(outer, number, inner), inner])

        walk(k, taken if taken[2] > 1 else taken[:2], site.lanes, body)
        into.run(k.build(), *operands, result)


class ScatterAdd(PlainData):
    """Zeros, to which each element of the operand is added, in order, at the place of its index."""

    name: ClassVar[str] = "scatter_add"

    def supports(self, site: Site) -> str | None:
        return None if isinstance(site.op, TakeGrad | TakeAlongGrad) else "only for adding by index"

    def lower(self, site: Site, into: Lowering) -> None:
        op = site.op
        assert isinstance(op, TakeGrad | TakeAlongGrad)
        operands, result = [into.read(0), into.read(1)], into.write()
        k = KernelBuilder(op.name)
        given = view(site.shape(0), op.axis)
        g = k.read("g", site.dtype, given)
        find = _lookup(k, given, isinstance(op, TakeGrad))
        dx = k.write("dx", site.dtype, view(site.result, op.axis))
        outer, size, inner = dx.shape
        for start, stripes, stripe in segments(inner, STRIPE):
            with k.loop("n", outer, "parallel") as n, k.loop("s", stripes, "parallel") as s:
                first = s * stripe + start
                with k.loop("i", size) as i:
                    for at in _vectors(k, first, stripe, site.lanes):
                        k.store(dx[n, i, at], k.constant(0, site.dtype))
                with k.loop("number", given[1]) as number:
                    for at in _vectors(k, first, stripe, site.lanes):
                        target = dx[n, find(n, number, at), at]
                        k.store(target, target + g[n, number, at])
        into.run(k.build(), *operands, result)


def _lookup(k: KernelBuilder, taken: View, shared: bool) -> Lookup:
    """The place along the axis for an element, from one list for all or an index of its own."""
    if shared:
        places = k.read("index", "i64", taken[1:2])
        return lambda outer, number, inner: Clamped(places[number])
    own = k.read("index", "i64", taken)
    return lambda outer, number, inner: Clamped(own[outer, number, inner])


def _vectors(k: KernelBuilder, first: Affine, count: int, lanes: int) -> Iterator[Affine]:
    """Loops over positions from ``first`` on, a vector at a time."""
    for start, trips, width in segments(count, lanes):
        with k.loop("i", trips) as i, k.loop("v", width, "vector") as v:
            yield first + i * width + v + start


class FindExtreme(PlainData):
    """The first largest or smallest along an axis. Lanes are neighbouring results; where there are
    none, neighbours along the axis, which compete with each other at last."""

    name: ClassVar[str] = "find_extreme"

    def supports(self, site: Site) -> str | None:
        return None if isinstance(site.op, ArgMax | ArgMin) else "only for argmax and argmin"

    def lower(self, site: Site, into: Lowering) -> None:
        op = site.op
        assert isinstance(op, ArgMax | ArgMin)
        source, result = into.read(0), into.write()
        lanes = site.target.lanes(source.dtype)
        k = KernelBuilder(op.name)
        x = k.read("x", source.dtype, view(site.shape(0), op.axis))
        outer, size, inner = x.shape
        y = k.write("y", "i64", (outer, inner))
        if inner == 1 and size > lanes:
            with k.loop("n", outer, "parallel") as n:
                search = _Search.of(k, op, x.dtype, lanes)
                with k.loop("v", lanes, "vector") as v:
                    search.begin(v, x[n, v, 0], Position(v))
                for start, trips, width in segments(size - lanes, lanes):
                    with k.loop("i", trips) as i, k.loop("v", width, "vector") as v:
                        place = i * width + v + (start + lanes)
                        search.meet(v, x[n, place, 0], Position(place))
                k.store(y[n, 0], search.settled().which[0])
            into.run(k.build(), source, result)
            return
        for start, trips, width in segments(inner, lanes):
            with k.loop("n", outer, "parallel") as n, k.loop("s", trips, "parallel") as s:
                first = s * width + start
                search = _Search.of(k, op, x.dtype, width)
                with k.loop("v", width, "vector") as v:
                    search.begin(v, x[n, 0, first + v], Position(Affine()))
                with k.loop("i", range(1, size)) as i, k.loop("v", width, "vector") as v:
                    search.meet(v, x[n, i, first + v], Position(i))
                with k.loop("v", width, "vector") as v:
                    k.store(y[n, first + v], search.which[v])
        into.run(k.build(), source, result)


@dataclass(frozen=True)
class _Search:
    """In each lane, the best value so far and its position along the axis."""

    k: KernelBuilder
    op: ArgMax | ArgMin
    best: Buffer
    which: Buffer

    @staticmethod
    def of(k: KernelBuilder, op: ArgMax | ArgMin, dtype: Scalar, lanes: int) -> _Search:
        """Room for so many lanes."""
        return _Search(k, op, k.local("best", dtype, (lanes,)), k.local("which", "i64", (lanes,)))

    def begin(self, v: Affine, value: Expr, position: Expr) -> None:
        """The first value of a lane."""
        self.k.store(self.best[v], value)
        self.k.store(self.which[v], position)

    def meet(self, v: Affine, value: Expr, position: Expr) -> None:
        """Take a value of a later position if it is beyond the best, or the first NaN."""
        better = _or(self._beyond(value, self.best[v]), _only_nan(value, self.best[v]))
        self._take(v, better, value, position)

    def settled(self) -> _Search:
        """One lane, the best of all: halves against halves, of equals the first position."""
        search, lanes = self, self.best.shape[0]
        while lanes > 1:
            half = (lanes + 1) // 2
            winner = _Search.of(self.k, self.op, self.best.dtype, half)
            with self.k.loop("v", half, "vector") as v:
                winner.begin(v, search.best[v], search.which[v])
            with self.k.loop("v", lanes - half, "vector") as v:
                value, position = search.best[v + half], search.which[v + half]
                mine = winner.best[v]
                alike = _or(call("eq", value, mine), _and(_nan(value), _nan(mine)))
                first = _and(alike, call("lt", position, winner.which[v]))
                better = _or(self._beyond(value, mine), _or(_only_nan(value, mine), first))
                winner._take(v, better, value, position)
            search, lanes = winner, half
        return search

    def _take(self, v: Affine, better: Expr, value: Expr, position: Expr) -> None:
        """The position first: what is better is worked out again for the value."""
        self.k.store(self.which[v], select(better, position, self.which[v]))
        self.k.store(self.best[v], select(better, value, self.best[v]))

    def _beyond(self, value: Expr, best: Expr) -> Expr:
        return call("gt" if self.op.largest else "lt", value, best)


def _only_nan(value: Expr, best: Expr) -> Expr:
    return _and(_nan(value), call("not", _nan(best)))


def _and(a: Expr, b: Expr) -> Expr:
    return call("and", a, b)


def _or(a: Expr, b: Expr) -> Expr:
    return call("or", a, b)


def _nan(value: Expr) -> Expr:
    return call("isnan", value)
