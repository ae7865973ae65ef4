"""Reductions over axes: sums, products, largest and smallest elements.

Whatever its layout, an operand is a box of kept and of reduced axes, each merged where they run on
into each other. Lanes run along the kept axis where that is contiguous; else along the reduced one,
as partial results that are combined in a fixed order. Where few results are made of many elements,
partial results of pieces are stored first, so that there are tasks to share; the pieces depend on
the sizes alone, so every number of threads gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import inf, prod
from typing import TYPE_CHECKING, ClassVar

import ir
from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.movement import PlainData
from convc.algorithms.strided import Box, fill, merged
from convc.schedule import Nest, Point, Schedule, lower, segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import call, maximum
from ir.loops.nodes import Expr, Load
from ir.ops import ReduceMax, ReduceMin, ReduceProd, Sum
from ir.ops.shape import Reduction

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored

Combine = Callable[[Expr, Expr], Expr]
Place = Callable[[Point], list[Affine]]
ROWS = 8  # vectors of partial results, or of neighbouring results: their sums overlap in time
CHUNK = 16384  # neighbours added up to one partial result
FEW, MUCH, PIECE = 32, 1 << 17, 1 << 15  # tasks, elements, elements of a piece


@dataclass(frozen=True)
class Rule:
    """How two results are combined, and what leaves the other as it is."""

    combine: Combine
    neutral: float


RULES: dict[type[ir.Op], Rule] = {
    Sum: Rule(lambda a, b: a + b, 0.0),
    ReduceProd: Rule(lambda a, b: a * b, 1.0),
    ReduceMax: Rule(maximum, -inf),
    ReduceMin: Rule(lambda a, b: call("min", a, b), inf),
}


@dataclass(frozen=True)
class Work:
    """Results at ``target``, each from the elements at its place in ``source`` plus ``inner``."""

    target: Box
    source: Box
    inner: Box

    @staticmethod
    def of(x: Box, y: Box, axes: Sequence[int]) -> Work:
        """A box reduced over some axes; y has the others."""
        kept = [axis for axis in range(len(x.extents)) if axis not in axes]
        source, target = merged(x.permuted(kept), y)
        (inner,) = merged(replace(x.permuted(sorted(axes)), base=0))
        return Work(target, source, inner)

    @property
    def along(self) -> bool:
        """Whether lanes run along the reduced elements."""
        return self.inner.strides[-1] == 1 and self.inner.extents[-1] > 1

    @property
    def size(self) -> int:
        return prod(self.source.extents) * prod(self.inner.extents)


class Reduce(PlainData):
    """Elements combined over axes; over all pixels or all but the channels, on images in blocks."""

    name: ClassVar[str] = "reduce"

    def supports(self, site: Site) -> str | None:
        return None if type(site.op) in RULES else "only for reductions"

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        return (Wish((1, site.lanes), exact=False) if _by_channel(site) else AS_PLAIN,)

    def lower(self, site: Site, into: Lowering) -> None:
        source, result = into.read(0), into.write()
        lanes, rule = site.lanes, RULES[type(site.op)]
        for work in _works(site, source):
            parts = _Parts.of(work, lanes)
            if parts is None:
                _run(site, into, source, result, [work], rule)
                continue
            room = into.temporary(f"{site.name}.parts", site.dtype, parts.size)
            _run(site, into, source, room, parts.pieces, rule)
            _run(site, into, room, result, [parts.whole], rule)


def _by_channel(site: Site) -> bool:
    """Whether results are of channels, with or without the batch axis."""
    assert isinstance(site.op, Reduction)
    pixels = {*range(2, len(site.shape(0)))}
    return bool(pixels) and set(site.op.axes) in (pixels, pixels | {0})


def _works(site: Site, source: Stored) -> list[Work]:
    """One, or two where the last block of channels is not full."""
    assert isinstance(site.op, Reduction)
    axes, block = site.op.axes, source.layout.block
    if not _by_channel(site):
        return [Work.of(Box.whole(source.shape), Box.whole(site.result), axes)]
    image = Box.blocks(source.layout, source.shape)
    works = []
    for first, blocks, lanes in segments(source.shape[1], block):
        extents = (image.extents[0], blocks, *image.extents[2:-1], lanes)
        x = image.cut((0, first // block, *(0,) * (len(extents) - 2)), extents, (1,) * len(extents))
        batch = () if 0 in axes else extents[:1]
        steps = (source.shape[1],) * len(batch)
        y = Box((*batch, blocks, lanes), first, (*steps, block, 1))
        works.append(Work.of(x, y, axes))
    return works


@dataclass(frozen=True)
class _Parts:
    """A reduction in two passes: partial results of pieces, and those combined."""

    pieces: list[Work]
    whole: Work
    size: int

    @staticmethod
    def of(work: Work, lanes: int) -> _Parts | None:
        """The passes of one with few tasks and much to do; None for others."""
        kept, source, inner = work.source.extents, work.source, work.inner
        tasks = prod(kept) if work.along else prod(kept) // (lanes * ROWS)
        if tasks >= FEW or work.size < MUCH:
            return None
        *outer, last = inner.extents
        length = PIECE if work.along else max(1, PIECE // prod(kept))
        cuts = segments(last, length)
        counts = (*outer, sum(trips for _, trips, _ in cuts))
        extents = (*kept, *counts) if work.along else (*counts, *kept)
        room = Box.whole(extents)
        places = range(len(kept), len(extents)) if work.along else range(len(counts))
        pieces, done = [], 0
        for start, trips, width in cuts:
            step = inner.strides[-1]
            across = Box((*outer, trips), start * step, (*inner.strides[:-1], width * step))
            first, second = (source, across) if work.along else (across, source)
            box = Box((*first.extents, *second.extents), first.base + second.base,
                      (*first.strides, *second.strides))  # fmt: skip
            starts = [done if axis == places[-1] else 0 for axis in range(len(extents))]
            target = room.cut(starts, box.extents, (1,) * len(extents))
            box, target = merged(box, target)
            pieces.append(Work(target, box, Box((width,), 0, (step,))))
            done += trips
        return _Parts(pieces, Work.of(room, work.target, tuple(places)), prod(extents))


def _run(
    site: Site, into: Lowering, source: Stored, result: Stored, works: list[Work], rule: Rule
) -> None:
    k = KernelBuilder(site.op.name)
    x, y = (
        declare(name, site.dtype, (stored.layout.size(stored.shape),))
        for declare, name, stored in ((k.read, "x", source), (k.write, "y", result))
    )
    for work in works:
        if not prod(work.target.extents):
            continue
        if not prod(work.inner.extents):
            fill(k, y, work.target, rule.neutral, site.lanes)
        elif work.along:
            _along(k, y, x, work, rule, site.lanes)
        else:
            _across(k, y, x, work, rule, site.lanes)
    into.run(k.build(), source, result)


def _across(k: KernelBuilder, y: Buffer, x: Buffer, work: Work, rule: Rule, lanes: int) -> None:
    """Lanes are neighbouring results."""
    *outer, last = work.source.extents
    box = {f"r{axis}": range(n) for axis, n in enumerate(work.inner.extents)}
    for start, vectors, width in segments(last, lanes):

        def place(p: Point, start: int = start, width: int = width) -> list[Affine]:
            lead = [p[f"a{axis}"] for axis in range(len(outer))]
            return [*lead, p["o"] * width + p["v"] + start]

        def update(p: Point, acc: Expr, place: Place = place) -> Expr:
            inner = work.inner.at([p[axis] for axis in box])
            return rule.combine(acc, x[work.source.at(place(p)) + inner])

        def store(p: Point, acc: Expr, place: Place = place) -> tuple[Load, Expr]:
            return y[work.target.at(place(p))], acc

        axes = {f"a{axis}": n for axis, n in enumerate(outer)} | {"o": vectors, "v": width}
        tiled = "o" if vectors > 1 or not outer else f"a{len(outer) - 1}"
        nest = Nest(x.dtype, axes, store, update, (box,), rule.neutral)
        parallel = tuple(axis for axis in axes if axis != "v")
        lower(k, nest, Schedule(parallel, ((tiled, min(ROWS, axes[tiled])),), ("v", width)))


def _along(k: KernelBuilder, y: Buffer, x: Buffer, work: Work, rule: Rule, lanes: int) -> None:
    """Lanes are neighbours that are combined, at last with each other."""
    *outer, last = work.inner.extents
    with ExitStack() as loops:
        at = [
            loops.enter_context(k.loop(f"a{axis}", n, "parallel"))
            for axis, n in enumerate(work.source.extents)
        ]
        total = k.local("total", x.dtype, (1,))
        k.store(total[0], k.constant(rule.neutral, x.dtype))
        with ExitStack() as inside:
            rest = [inside.enter_context(k.loop(f"r{axis}", n)) for axis, n in enumerate(outer)]
            for start, chunks, count in segments(last, CHUNK):
                with k.loop("chunk", chunks) as chunk:
                    first = work.source.at(at) + work.inner.at([*rest, chunk * count + start])
                    k.store(total[0], rule.combine(total[0], _row(k, x, first, count, rule, lanes)))
        k.store(y[work.target.at(at)], total[0])


def _row(k: KernelBuilder, x: Buffer, first: Affine, count: int, rule: Rule, lanes: int) -> Expr:
    """So many neighbours combined: in the lanes of several vectors, and those at the end."""
    width = lanes if count >= lanes else 1
    rows = min(ROWS, count // width)
    acc = k.local("acc", x.dtype, (rows, width))
    with k.loop("row", rows, "unroll") as row, k.loop("v", width, "vector") as v:
        k.store(acc[row, v], k.constant(rule.neutral, x.dtype))
    step = rows * width
    done = count - count % step
    with k.loop("t", count // step) as t, k.loop("row", rows, "unroll") as row:
        _combine(k, acc, row, x, first + t * step + row * width, width, rule)
    while done < count:  # in vectors, then in half as wide ones, and so on
        while count - done < width:
            width //= 2
        _combine(k, acc, Affine.of(done // width % rows), x, first + done, width, rule)
        done += width
    return _folded(k, acc, rule)


def _combine(
    k: KernelBuilder, acc: Buffer, row: Affine, x: Buffer, first: Affine, width: int, rule: Rule
) -> None:
    """Combine so many neighbours with the first lanes of a row of partial results."""
    with k.loop("v", width, "vector") as v:
        k.store(acc[row, v], rule.combine(acc[row, v], x[first + v]))


def _folded(k: KernelBuilder, acc: Buffer, rule: Rule) -> Expr:
    """All elements of a local matrix combined: halves with halves."""
    rows, width = acc.shape
    line = k.local("line", acc.dtype, (width,))
    with k.loop("v", width, "vector") as v:
        values: list[Expr] = [acc[row, v] for row in range(rows)]
        while len(values) > 1:
            half = (len(values) + 1) // 2
            pairs = zip(values, values[half:], strict=False)
            values = [rule.combine(a, b) for a, b in pairs] + values[len(values) - half : half]
        k.store(line[v], values[0])
    while width > 1:
        half = (width + 1) // 2
        shorter = k.local("line", acc.dtype, (half,))
        with k.loop("v", width // 2, "vector") as v:
            k.store(shorter[v], rule.combine(line[v], line[v + half]))
        if width % 2:
            k.store(shorter[half - 1], line[half - 1])
        line, width = shorter, half
    return line[0]
