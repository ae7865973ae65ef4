"""Ops that move data: reshape, transpose, expand, slice, pad, reverse, concat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar

import ir
from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.strided import Box, copy, fill, halo_of
from convc.cost import L3, MEMORY, stream_bytes
from ir.dims import Dim
from ir.loops import Buffer, KernelBuilder
from ir.ops import Concat, Expand, Pad, Reshape, Reverse, Slice, Transpose

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored


AT_ONCE = 16  # operands that one kernel puts together: the runtime passes it so many buffers


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


class Move(PlainData):
    """Each result element is one operand element, or a filler. Images stay in their blocks where
    the op keeps blocks of channels whole."""

    name: ClassVar[str] = "move"

    def supports(self, site: Site) -> str | None:
        moved = isinstance(site.op, Transpose | Expand | Slice | Pad | Reverse | Concat)
        return None if moved else "only for ops that move data"

    def seconds(self, site: Site) -> float:
        nbytes = site.op.cost(*site.inputs).bytes
        return nbytes / (stream_bytes(nbytes) if nbytes < L3 else MEMORY)

    def tolerance(self, site: Site) -> float:
        return 6e-8 if site.dtype == "f32" else 0.0  # of the filler

    def block(self, site: Site, given: Sequence[int]) -> int:
        return max(given, default=1) if _keeps_blocks(site) else 1

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        image = Wish((1, site.lanes), exact=False)
        return (image if _keeps_blocks(site) else AS_PLAIN,) * len(site.inputs)

    def lower(self, site: Site, into: Lowering) -> None:
        blocked = _keeps_blocks(site)
        given = [into.block(operand) for operand in range(len(site.inputs))]
        block = self.block(site, given) if blocked else None
        operands = [into.read(operand, block) for operand in range(len(site.inputs))]
        start = _view_start(site, operands[0], block)
        if start is not None and into.view(0, start):
            return
        result = into.write(block)
        if isinstance(site.op, Concat):
            _concat(site, into, site.op.axis, operands, result, blocked)
            return
        x, source, target = operands[0], _box(operands[0], blocked), _box(result, blocked)
        k = KernelBuilder(site.op.name)
        data = k.read("x", site.dtype, (_size(x),))
        y = k.write("y", site.dtype, (_size(result),))
        for around in halo_of(result):
            fill(k, y, around, 0, site.lanes)
        if isinstance(site.op, Pad):
            _pad(k, site, y, target, data, source, block)
        else:
            copy(k, y, target, data, _source(site.op, source, target, block), site.lanes)
        into.run(k.build(), x, result)


def _view_start(site: Site, x: Stored, block: int | None) -> int | None:
    """Where a slice of the channels of one image begins in a batch; None for any other op."""
    op = site.op
    if not isinstance(op, Slice) or block is None or site.result[0] != 1:
        return None
    starts, given = _numbers(op.starts), site.shape(0)
    if set(op.steps) != {1} or site.result[2:] != given[2:] or starts[1] % block:
        return None
    _, blocks, *plane = x.layout.physical(given)
    return (starts[0] * blocks + starts[1] // block) * prod(plane)


def _concat(
    site: Site,
    into: Lowering,
    axis: int,
    operands: Sequence[Stored],
    result: Stored,
    blocked: bool,
) -> None:
    """Copy the operands that do not lie there already, some a kernel; the first kernel clears the
    halo as well."""
    target = _box(result, blocked)
    place = [0] * len(target.extents)
    rest: list[tuple[Stored, Box, Box]] = []
    for x in operands:
        source = _box(x, blocked)
        if not into.lies_in(x, result):
            rest.append((x, source, target.cut(place, source.extents, (1,) * len(place))))
        place[axis] += source.extents[axis]
    for first in range(0, len(rest), AT_ONCE):
        some = rest[first : first + AT_ONCE]
        k = KernelBuilder(site.op.name)
        xs = [k.read("x", site.dtype, (_size(x),)) for x, *_ in some]
        y = k.write("y", site.dtype, (_size(result),))
        for around in halo_of(result) if first == 0 else ():
            fill(k, y, around, 0, site.lanes)
        for data, (_, source, part) in zip(xs, some, strict=True):
            copy(k, y, part, data, source, site.lanes)
        into.run(k.build(), *(x for x, *_ in some), result)


def _size(stored: Stored) -> int:
    return stored.layout.size(stored.shape)


def _box(stored: Stored, blocked: bool) -> Box:
    return Box.blocks(stored.layout, stored.shape) if blocked else Box.whole(stored.shape)


def _source(op: ir.Op, x: Box, y: Box, block: int | None) -> Box:
    """Where the elements of y are in x."""
    if isinstance(op, Transpose):
        return x.permuted(op.perm)
    if isinstance(op, Expand):
        return x.repeated(y.extents)
    if isinstance(op, Reverse):
        return x.reversed(op.axes)
    assert isinstance(op, Slice)
    starts, steps = _numbers(op.starts), op.steps
    if block is not None:
        starts, steps = _in_blocks(starts, block, 0), (*steps, 1)
    return x.cut(starts, y.extents, steps)


def _in_blocks(numbers: Sequence[int], block: int, lane: int) -> tuple[int, ...]:
    """Numbers per axis of an image, those of channels counted in blocks, and that of a lane."""
    return (numbers[0], numbers[1] // block, *numbers[2:], lane)


def _pad(
    k: KernelBuilder, site: Site, y: Buffer, target: Box, x: Buffer, source: Box, block: int | None
) -> None:
    """Copy the entries that are not cropped away; fill between and around them."""
    op = site.op
    assert isinstance(op, Pad)
    lows, steps = _numbers(low for low, _ in op.pads), tuple(1 + gap for gap in op.interior)
    if block is not None:
        lows, steps = _in_blocks(lows, block, 0), (*steps, 1)
    axes = list(zip(lows, steps, source.extents, target.extents, strict=True))
    firsts = [max(0, -(low // step)) for low, step, *_ in axes]
    ends = [min(n, (size - 1 - low) // step + 1) for low, step, n, size in axes]
    counts = [max(0, end - first) for first, end in zip(firsts, ends, strict=True)]
    if not prod(counts):
        fill(k, y, target, op.value, site.lanes)
        return
    places = [low + first * step for first, (low, step, *_) in zip(firsts, axes, strict=True)]
    spans = [(count - 1) * step + 1 for count, step in zip(counts, steps, strict=True)]
    entries = target.cut(places, counts, steps)
    for box in (*target.slabs(places, spans), *entries.gaps(steps)):
        fill(k, y, box, op.value, site.lanes)
    taken = source.cut(firsts, counts, (1,) * len(counts))
    copy(k, y, entries, x, taken, site.lanes)


def _numbers(extents: Iterable[Dim]) -> tuple[int, ...]:
    """Extents of a static graph."""
    return tuple(n for n in extents if isinstance(n, int))


def _keeps_blocks(site: Site) -> bool:
    """Whether the op can work on images in blocks of channels: it moves whole ones."""
    op, lanes = site.op, site.lanes
    if len(site.result) < 3:
        return False
    channels = [shape.static_shape[1] for shape in site.inputs if shape.rank > 1]
    if isinstance(op, Slice):
        return op.steps[1] == 1 and _numbers(op.starts)[1] % lanes == 0
    if isinstance(op, Pad):
        low, high = _numbers(op.pads[1])
        whole = not (low % lanes or channels[0] % lanes)
        return op.interior[1] == 0 and (low == high == 0 or whole)
    if isinstance(op, Concat):
        return op.axis != 1 or not any(count % lanes for count in channels[:-1])
    return isinstance(op, Reverse) and 1 not in op.axes
