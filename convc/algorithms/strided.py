"""Copies and fills between places that advance by strides: what data movement comes down to.

A ``Box`` is a place in a flat buffer: element ``index`` lies at ``base + Σ index·stride``. Cutting,
reversing, permuting and repeating axes only change its numbers; a copy merges the axes that run on
into each other on both sides, makes tasks of the outer ones, and transposes square tiles in
registers where the two sides are contiguous along different axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod

from convc.layout import Layout
from convc.program import Stored
from convc.schedule import segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.nodes import strides

Body = Callable[[tuple[Affine, ...], Affine], None]
PIECE = 2048  # elements of a long axis that a task moves
ENOUGH = 512  # elements inside an iteration that make it worth a task of its own


@dataclass(frozen=True)
class Box:
    """Extents, and the place of every index in a flat buffer."""

    extents: tuple[int, ...]
    base: int
    strides: tuple[int, ...]

    @staticmethod
    def whole(shape: Sequence[int]) -> Box:
        """A contiguous row-major array."""
        return Box(tuple(shape), 0, strides(tuple(shape)))

    @staticmethod
    def blocks(layout: Layout, shape: Sequence[int]) -> Box:
        """An image in its layout, without the halo: [N, blocks of channels, *S, block]."""
        physical = layout.physical(shape)
        steps = strides(physical)
        pads = layout.pads(len(shape) - 2)
        base = sum(low * step for (low, _), step in zip(pads, steps[2:-1], strict=True))
        return Box((*physical[:2], *shape[2:], layout.block), base, steps)

    def cut(self, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> Box:
        """From ``starts`` on so many elements, each ``steps`` after the last."""
        base = self.base + sum(a * b for a, b in zip(starts, self.strides, strict=True))
        advanced = tuple(a * b for a, b in zip(self.strides, steps, strict=True))
        return Box(tuple(sizes), base, advanced)

    def reversed(self, axes: Sequence[int]) -> Box:
        """The axes run from their end."""
        turned = [axis in axes for axis in range(len(self.extents))]
        starts = [n - 1 if turn else 0 for n, turn in zip(self.extents, turned, strict=True)]
        return self.cut(starts, self.extents, [-1 if turn else 1 for turn in turned])

    def permuted(self, perm: Sequence[int]) -> Box:
        """Axis i is axis perm[i] of this box."""
        return Box(
            tuple(self.extents[axis] for axis in perm), self.base,
            tuple(self.strides[axis] for axis in perm),
        )  # fmt: skip

    def repeated(self, extents: Sequence[int]) -> Box:
        """Broadcast by numpy's rule."""
        extra = len(extents) - len(self.extents)
        own = zip(self.extents, self.strides, extents[extra:], strict=True)
        kept = (step if m == n else 0 for m, step, n in own)
        return Box(tuple(extents), self.base, ((0,) * extra + tuple(kept)))

    def slabs(self, starts: Sequence[int], sizes: Sequence[int]) -> Iterator[Box]:
        """What lies around an inner part: disjoint boxes, an axis at a time."""
        low, extents = [0] * len(self.extents), list(self.extents)
        ones = (1,) * len(extents)
        for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            for first, count in ((0, start), (start + size, self.extents[axis] - start - size)):
                low[axis], extents[axis] = first, count
                if prod(extents):
                    yield self.cut(low, extents, ones)
            low[axis], extents[axis] = start, size

    def gaps(self, steps: Sequence[int]) -> Iterator[Box]:
        """What lies between the elements of this box, which was cut with these steps."""
        fine = [stride // step for stride, step in zip(self.strides, steps, strict=True)]
        spans = [(n - 1) * step + 1 for n, step in zip(self.extents, steps, strict=True)]
        for axis, step in enumerate(steps):
            if step > 1 and self.extents[axis] > 1:
                before, after = slice(0, axis + 1), slice(axis + 1, None)
                count = self.extents[axis] - 1
                extents = (*self.extents[:axis], count, step - 1, *spans[after])
                strides = (*self.strides[before], fine[axis], *fine[after])
                yield Box(extents, self.base + fine[axis], strides)

    def at(self, index: Sequence[Affine]) -> Affine:
        """The place of an element."""
        terms = (i * step for i, step in zip(index, self.strides, strict=True))
        return sum(terms, Affine.of(self.base))


def halo_of(stored: Stored) -> Iterator[Box]:
    """What surrounds an image in its layout."""
    layout = stored.layout
    if any(map(any, layout.halo)):
        inner = Box.blocks(layout, stored.shape).extents
        low = (0, 0, *(a for a, _ in layout.halo), 0)
        yield from Box.whole(layout.physical(stored.shape)).slabs(low, inner)


def fill(k: KernelBuilder, y: Buffer, box: Box, value: float, lanes: int) -> None:
    """Store one number all over a box."""
    constant = k.constant(int(value) if y.dtype == "i64" else value, y.dtype)
    (box,) = merged(box)
    walk(k, box.extents, lanes, lambda at, _: k.store(y[box.at(at)], constant))


def copy(k: KernelBuilder, y: Buffer, target: Box, x: Buffer, source: Box, lanes: int) -> None:
    """Store the elements of one box into another of its extents."""
    target, source = merged(target, source)
    rows = _contiguous_axis(source)
    last = len(target.extents) - 1
    transposed = rows not in (None, last) and target.strides[-1] == 1 and source.strides[-1] != 0
    if rows is not None and transposed and min(target.extents[rows], target.extents[-1]) > 1:
        _copy_transposed(k, y, target, x, source, rows, lanes)
        return
    walk(k, target.extents, lanes, lambda at, _: k.store(y[target.at(at)], x[source.at(at)]))


def _contiguous_axis(box: Box) -> int | None:
    return next((axis for axis, step in enumerate(box.strides) if step == 1), None)


def merged(first: Box, *others: Box) -> tuple[Box, ...]:
    """The same elements in fewer axes: those that run on into each other on every side are one."""
    boxes = (first, *others)
    extents: list[int] = []
    steps: list[tuple[int, ...]] = []
    for axis, n in enumerate(first.extents):
        step = tuple(box.strides[axis] for box in boxes)
        if n == 1 and prod(first.extents) > 0:
            continue
        if extents and steps[-1] == tuple(s * n for s in step):
            extents[-1], steps[-1] = extents[-1] * n, step
        else:
            extents.append(n)
            steps.append(step)
    if not extents:
        extents, steps = [1], [(1,) * len(boxes)]
    return tuple(
        Box(tuple(extents), box.base, tuple(step[number] for step in steps))
        for number, box in enumerate(boxes)
    )


def walk(k: KernelBuilder, extents: Sequence[int], lanes: int, body: Body) -> None:
    """``body(index, lane)`` for every element, a vector of the last axis at a time."""
    *outer, last = extents
    shared = _shared(extents)
    piece = PIECE if shared == len(outer) else max(last, 1)
    for start, pieces, size in segments(last, piece):
        with ExitStack() as loops:
            at = _loops(k, outer, shared, loops)
            first = Affine.of(start)
            if shared == len(outer):
                first = loops.enter_context(k.loop("piece", pieces, "parallel")) * piece + start
            for begin, trips, width in segments(size, lanes):
                with k.loop("i", trips) as i, k.loop("v", width, "vector") as v:
                    body((*at, first + i * width + v + begin), v)


def _shared(extents: Sequence[int]) -> int:
    """How many of the axes before the last are tasks."""
    count = 0
    while count < len(extents) - 1 and (count == 0 or prod(extents[count + 1 :]) >= ENOUGH):
        count += 1
    return count


def _loops(k: KernelBuilder, extents: Sequence[int], shared: int, loops: ExitStack) -> list[Affine]:
    """Enter a loop for each axis; the first ``shared`` are tasks."""
    return [
        loops.enter_context(k.loop(f"a{axis}", n, "parallel" if axis < shared else "for"))
        for axis, n in enumerate(extents)
    ]


def _copy_transposed(
    k: KernelBuilder, y: Buffer, target: Box, x: Buffer, source: Box, rows: int, lanes: int
) -> None:
    """By square tiles of the last axis, along which y is contiguous, and of ``rows``, along which
    x is: read along the one, written along the other."""
    outer = [n for axis, n in enumerate(target.extents[:-1]) if axis != rows]
    for first, down, height in segments(target.extents[rows], lanes):
        for start, across, width in segments(target.extents[-1], lanes):
            with ExitStack() as loops:
                at = _loops(k, outer, len(outer), loops)
                row = loops.enter_context(k.loop("row", down, "parallel")) * height + first
                column = loops.enter_context(k.loop("column", across)) * width + start
                tile = k.local("tile", x.dtype, (lanes, lanes))
                with k.loop("i", width, "unroll") as i, k.loop("v", height, "vector") as v:
                    index = [*at, column + i]
                    index.insert(rows, row + v)
                    k.store(tile[i, v], x[source.at(index)])
                with k.loop("i", height, "unroll") as i, k.loop("v", width, "vector") as v:
                    index = [*at, column + v]
                    index.insert(rows, row + i)
                    k.store(y[target.at(index)], tile[v, i])
