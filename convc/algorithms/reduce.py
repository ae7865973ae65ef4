"""Sums over axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.movement import PlainData
from convc.schedule import Nest, Point, Schedule, lower, segments
from ir.loops import KernelBuilder
from ir.loops.nodes import Expr, Load
from ir.ops import Sum

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored


class Reduce(PlainData):
    """Sums over axes, in order. Per-channel sums of an image are taken on its blocks."""

    name: ClassVar[str] = "reduce"

    def supports(self, site: Site) -> str | None:
        return None if isinstance(site.op, Sum) else "only for sum"

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        return (Wish((site.lanes,), exact=False),) if _per_channel(site) else (AS_PLAIN,)

    def lower(self, site: Site, into: Lowering) -> None:
        source, result = into.read(0), into.write()
        k = KernelBuilder("sum")
        if _per_channel(site):
            _channel_sums(k, site, source)
        else:
            _plain_sums(k, site)
        into.run(k.build(), source, result)


def _per_channel(site: Site) -> bool:
    assert isinstance(site.op, Sum)
    rank = len(site.shape(0))
    return rank > 2 and set(site.op.axes) == {*range(rank)} - {1}


def _channel_sums(k: KernelBuilder, site: Site, source: Stored) -> None:
    x = source.image(k, "x")
    y = k.write("y", site.dtype, site.result)
    box = {"n": range(x.shape[0])} | {f"s{a}": range(n) for a, n in enumerate(x.shape[2:])}
    for first, blocks, width in segments(x.shape[1], site.lanes):

        def update(p: Point, acc: Expr, first: int = first) -> Expr:
            at = (p[f"s{axis}"] for axis in range(len(x.shape) - 2))
            return acc + x[(p["n"], p["c"] + first // site.lanes, *at, p["v"])]

        def store(p: Point, acc: Expr, first: int = first) -> tuple[Load, Expr]:
            return y[p["c"] * site.lanes + p["v"] + first], acc

        nest = Nest(site.dtype, {"c": blocks, "v": width}, store, update, _nonempty(box))
        lower(k, nest, Schedule(("c",), vector=("v", width)))


def _plain_sums(k: KernelBuilder, site: Site) -> None:
    assert isinstance(site.op, Sum)
    shape, gone = site.shape(0), set(site.op.axes)
    x, y = k.read("x", site.dtype, shape or (1,)), k.write("y", site.dtype, site.result or (1,))
    kept = {f"a{axis}": n for axis, n in enumerate(shape) if axis not in gone}
    box = {f"a{axis}": range(n) for axis, n in enumerate(shape) if axis in gone}

    def update(p: Point, acc: Expr) -> Expr:
        return acc + x[tuple(p[f"a{axis}"] for axis in range(len(shape))) or (0,)]

    def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
        return y[tuple(p[a] for a in kept) or (0,)], acc

    last = f"a{len(shape) - 1}"
    vector = (last, site.lanes) if last in kept else None
    parallel = tuple(axis for axis in kept if axis != last)
    lower(k, Nest(site.dtype, kept, store, update, _nonempty(box)), Schedule(parallel, (), vector))


def _nonempty(box: dict[str, range]) -> tuple[dict[str, range], ...]:
    return (box,) if all(map(len, box.values())) else ()
