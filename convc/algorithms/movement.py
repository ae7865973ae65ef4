"""Ops that move or sum data: reshape, transpose, expand, sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.schedule import Nest, Point, Schedule, lower, segments
from ir.loops import Buffer, KernelBuilder
from ir.loops.nodes import Expr, Index, Load
from ir.ops import Expand, Reshape, Sum, Transpose

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored


class PlainData:
    """Common to algorithms on plain data whose time is that of moving it."""

    reorders_only: ClassVar[bool] = True

    def seconds(self, site: Site) -> float:
        return site.op.cost(*site.inputs).bytes / 5e9

    def tolerance(self, site: Site) -> float:
        return 1e-5 if site.dtype == "f32" else 1e-12

    def block(self, site: Site, given: Sequence[int]) -> int:
        return 1

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        return (AS_PLAIN,) * len(site.inputs)


class Alias(PlainData):
    """A reshape of plain data is the same memory."""

    name: ClassVar[str] = "alias"

    def supports(self, site: Site) -> str | None:
        return None if isinstance(site.op, Reshape) else "only for reshape"

    def seconds(self, site: Site) -> float:
        return 0.0

    def lower(self, site: Site, into: Lowering) -> None:
        into.alias(0)


class Gather(PlainData):
    """Each result element is one operand element."""

    name: ClassVar[str] = "gather"

    def supports(self, site: Site) -> str | None:
        return None if isinstance(site.op, Transpose | Expand) else "only for transpose, expand"

    def lower(self, site: Site, into: Lowering) -> None:
        source, result = into.read(0), into.write()
        k = KernelBuilder(site.op.name)
        x = k.read("x", site.dtype, source.shape or (1,))
        y = k.write("y", site.dtype, site.result or (1,))
        axes = {f"a{axis}": extent for axis, extent in enumerate(y.shape)}

        def store(p: Point, _: Expr) -> tuple[Load, Expr]:
            at = tuple(p[a] for a in axes)
            return y[at], x[_source(site, x, at)]

        schedule = Schedule(tuple(axes)[:-1], vector=(f"a{len(axes) - 1}", site.lanes))
        lower(k, Nest(site.dtype, axes, store), schedule)
        into.run(k.build(), source, result)


def _source(site: Site, x: Buffer, at: tuple[Index, ...]) -> tuple[Index, ...]:
    if isinstance(site.op, Transpose) and site.op.perm:
        places = dict(zip(site.op.perm, at, strict=True))
        return tuple(places[axis] for axis in range(len(x.shape)))
    aligned = at[len(at) - len(x.shape) :]
    return tuple(0 if n == 1 else i for n, i in zip(x.shape, aligned, strict=True))


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
