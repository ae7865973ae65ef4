"""Ops on indices: picking elements, adding up where indices say, finding extremes.

Plain data seen as [outer, along the axis, inner]. An index is clamped into its axis by the kernel
language, so one that is wrong reads or writes some other element of the buffer and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import Site
from convc.algorithms.movement import PlainData
from convc.algorithms.strided import walk
from convc.schedule import segments
from ir.loops import Affine, KernelBuilder
from ir.loops.builder import call, select
from ir.loops.nodes import Clamped, Expr, Position
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
    """The first largest or smallest along an axis; lanes are neighbouring results."""

    name: ClassVar[str] = "find_extreme"

    def supports(self, site: Site) -> str | None:
        return None if isinstance(site.op, ArgMax | ArgMin) else "only for argmax and argmin"

    def lower(self, site: Site, into: Lowering) -> None:
        op = site.op
        assert isinstance(op, ArgMax | ArgMin)
        source, result = into.read(0), into.write()
        dtype = source.dtype
        lanes = site.target.lanes(dtype)
        k = KernelBuilder(op.name)
        x = k.read("x", dtype, view(site.shape(0), op.axis))
        outer, size, inner = x.shape
        y = k.write("y", "i64", (outer, inner))
        for start, trips, width in segments(inner, lanes):
            with k.loop("n", outer, "parallel") as n, k.loop("s", trips, "parallel") as s:
                best, which = k.local("best", dtype, (width,)), k.local("which", "i64", (width,))
                first = s * width + start
                with k.loop("v", width, "vector") as v:
                    k.store(best[v], x[n, 0, first + v])
                    k.store(which[v], Position(Affine()))
                with k.loop("i", range(1, size)) as i, k.loop("v", width, "vector") as v:
                    value = x[n, i, first + v]
                    better = _better(op, value, best[v])
                    k.store(which[v], select(better, Position(i), which[v]))
                    k.store(best[v], select(better, value, best[v]))
                with k.loop("v", width, "vector") as v:
                    k.store(y[n, first + v], which[v])
        into.run(k.build(), source, result)


def _better(op: ArgMax | ArgMin, value: Expr, best: Expr) -> Expr:
    """Whether a later value takes the place of the best: it is beyond, or the first NaN."""
    beyond = call("gt" if op.largest else "lt", value, best)
    fresh = call("and", call("isnan", value), call("not", call("isnan", best)))
    return call("or", beyond, fresh)
