"""From a program to a plan: what runs once and what every time, and where each slot lies.

Steps that read only constants run once, when the plan is prepared; their results are constants
too, and what only they read is gone afterwards. The temporaries of the remaining steps share one
arena by their lifetimes: the largest first, each at the lowest offset free for as long as it
lives.
"""

from __future__ import annotations

import os
from bisect import insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod

import ir
from convc.backend.target import ITEM_BYTES
from convc.errors import CapacityError
from convc.overwriting import in_place
from convc.program import Program, Slot, Step
from ir.types import Array

ALIGNMENT = 64
LARGE = 1 << 20  # bytes of given constants from which they are not copied
ATTEMPTS = 50  # to lay out the arena in less
Data = dict[int, Array]  # of constants, by slot


@dataclass(frozen=True)
class Placed:
    """A slot in a memory region: bytes ``offset .. offset + nbytes``, live from step to step.

    ``in_place``: kernels read its data where they are given, which are too large to be copied.
    """

    slot: Slot
    offset: int
    first: int
    last: int
    in_place: bool = False

    @property
    def nbytes(self) -> int:
        return slot_bytes(self.slot)


@dataclass(frozen=True)
class Plan:
    """A program with its steps split and its memory laid out.

    ``constants`` are there as long as the plan; what is ``passing``, until it is prepared.
    """

    program: Program
    prepare: tuple[Step, ...]
    steps: tuple[Step, ...]
    constants: Mapping[int, Placed]
    temporaries: Mapping[int, Placed]
    passing: Mapping[int, Placed] = field(default_factory=dict)
    images: Plan | None = None

    @property
    def parts(self) -> tuple[Plan, ...]:
        """What runs for each image, if anything does, and this plan."""
        return (self,) if self.images is None else (self.images, self)

    def numbered(self) -> Iterator[tuple[str, Step]]:
        """All steps: those that run once as p0, p1, …, the others as 0, 1, …; those of an image
        as ip0, …, i0, …"""
        for part in self.parts:
            mark = "" if part is self else "i"
            for number, step in enumerate(part.prepare):
                yield f"{mark}p{number}", step
            for number, step in enumerate(part.steps):
                yield f"{mark}{number}", step

    @property
    def constant_bytes(self) -> int:
        return _extent(placed for placed in self.constants.values() if not placed.in_place)

    @property
    def given_bytes(self) -> int:
        """Of constants that are read where they are given."""
        return sum(placed.nbytes for placed in self.constants.values() if placed.in_place)

    @property
    def passing_bytes(self) -> int:
        """Of what is passing, what is computed."""
        return _extent(p for p in self.passing.values() if not p.in_place)

    @property
    def arena_bytes(self) -> int:
        return _extent(self.temporaries.values())

    def split(self) -> tuple[Plan, tuple[Data, ...]]:
        """The plan without the data that only its preparation needs, and that data, for each of
        the ``parts``."""
        data = {n: p.slot.data for n, p in self.passing.items() if p.slot.data is not None}
        bare = {n: replace(p, slot=replace(p.slot, data=None)) for n, p in self.passing.items()}
        slots = tuple(bare[s.number].slot if s.number in bare else s for s in self.program.slots)
        program, images = replace(self.program, slots=slots), None
        inner: tuple[Data, ...] = ()
        if self.images is not None and program.images is not None:
            images, inner = self.images.split()
            program = replace(program, images=replace(program.images, program=images.program))
        return replace(self, program=program, passing=bare, images=images), (*inner, data)

    @property
    def resident_bytes(self) -> int:
        """What is kept between runs: the constants, and the arenas of one thread."""
        return sum(p.constant_bytes + p.given_bytes + p.arena_bytes for p in self.parts)

    def kept_bytes(self, threads: int) -> int:
        """``resident_bytes`` where so many threads have images, and arenas for them, of their
        own."""
        if self.images is None or self.program.images is None:
            return self.resident_bytes
        more = threads - 1 if threads <= self.program.images.count else 0
        return self.resident_bytes + more * self.images.arena_bytes

    @property
    def live_bytes(self) -> int:
        """The most bytes alive at any one step: a lower bound for any arena."""
        return max(alive(self.temporaries.values(), len(self.steps)))

    @property
    def alive(self) -> list[int]:
        """The bytes alive at each step."""
        return alive(self.temporaries.values(), len(self.steps))[: len(self.steps)]


def plan(program: Program, overwriting: bool = True) -> Plan:
    """Split the steps of a program, and lay out its memory; ``overwriting``: results may lie where
    operands lay."""
    constant = {slot.number for slot in program.slots if slot.role == "constant"}
    prepare: list[Step] = []
    steps: list[Step] = []
    for step in program.steps:
        outputs = [program.slots[number].role for number in step.writes]
        if constant.issuperset(step.reads) and "output" not in outputs:
            prepare.append(step)
            constant.update(step.writes)
        else:
            steps.append(step)
    used = {number for step in steps for number in step.slots}
    once = {number for step in prepare for number in step.slots} - used
    constants = in_sequence(program.slots[number] for number in sorted(constant & used))
    passing = [program.slots[number] for number in sorted(constant & once)]
    bound = program.images.bound.values() if program.images else ()
    if overwriting:
        steps = list(in_place(program.slots, steps, {*constant, *bound}))
    temporaries = _pack(program.slots, steps, constant, bound)
    images = plan(program.images.program, overwriting) if program.images else None
    return Plan(program, tuple(prepare), tuple(steps), constants, temporaries,
                in_sequence(passing), images)  # fmt: skip


def check_values(graph: ir.Graph) -> None:
    """Raise ``CapacityError`` for a value larger than the memory of this machine, before any work.

    Expects static types.
    """
    for name, type in graph.types.items():
        need = prod(type.static_shape) * type.dtype.itemsize
        if need > total_bytes():
            raise CapacityError(f"the value {name!r} is {type}, {need / 2**30:.1f} GiB, and this "
                                f"machine has {total_bytes() / 2**30:.1f} GiB")  # fmt: skip


def slot_bytes(slot: Slot) -> int:
    """Up to where the next slot may begin; a part ends where it ends."""
    nbytes = slot.size * ITEM_BYTES[slot.dtype]
    return nbytes if slot.part is not None else -(-nbytes // ALIGNMENT) * ALIGNMENT


def in_sequence(slots: Iterable[Slot], start: int = 0) -> dict[int, Placed]:
    """Constants one after the other, but for those that stay where they are given."""
    placed: dict[int, Placed] = {}
    offset = start
    for slot in slots:
        in_place = slot.data is not None and slot_bytes(slot) >= LARGE
        each = placed[slot.number] = Placed(slot, offset, 0, 0, in_place)
        offset += 0 if in_place else each.nbytes
    return placed


def _pack(
    slots: Sequence[Slot], steps: Sequence[Step], constant: Collection[int],
    before: Collection[int] = (),
) -> dict[int, Placed]:  # fmt: skip
    """Offsets for temporaries by their lifetimes, as near to the most that is alive as is found
    soon. Parts lie where what they are part of lies, which lives as long as any of them. What is
    written ``before`` the first step lives from then on.

    Placed one by one, the largest first (Pisarchyk and Lee 2020, "greedy by size for offset
    calculation"); where that leaves gaps, whatever came to lie highest is placed earlier.
    """
    lives = dict.fromkeys(before, (0, 0))
    for number, step in enumerate(steps):
        for used in step.slots:
            for each in _around(slots, used):
                lives[each] = (lives.get(each, (number, 0))[0], number)
    mine = [s for s in slots if s.role == "temporary" and s.number in lives.keys() - constant]
    order = [Placed(slot, 0, *lives[slot.number]) for slot in mine if slot.part is None]
    order.sort(key=lambda placed: -placed.nbytes)
    bound = max(alive(order, len(steps)))
    best = found = _placed_in(order)
    for _ in range(ATTEMPTS):
        if _extent(best) == bound:
            break
        highest = max(range(len(found)), key=lambda at: found[at].offset + found[at].nbytes)
        order.insert(highest // 4, order.pop(highest))
        found = _placed_in(order)
        best = min(best, found, key=_extent)
    placed = {p.slot.number: p for p in best}
    for slot in mine:
        if slot.part is not None:  # of an earlier slot
            whole, start = slot.part
            offset = placed[whole].offset + start * ITEM_BYTES[slot.dtype]
            placed[slot.number] = Placed(slot, offset, *lives[slot.number])
    return placed


def _around(slots: Sequence[Slot], number: int) -> Iterator[int]:
    """A slot, what it is part of, what that is part of, …"""
    yield number
    part = slots[number].part
    if part is not None:
        yield from _around(slots, part[0])


def _placed_in(order: Sequence[Placed]) -> list[Placed]:
    """Each at the lowest offset that is free for as long as it lives."""
    placed: list[Placed] = []
    by_offset: list[Placed] = []
    for each in order:
        offset = 0
        for other in by_offset:
            if other.last < each.first or each.last < other.first:
                continue
            if offset + each.nbytes <= other.offset:
                break
            offset = max(offset, other.offset + other.nbytes)
        placed.append(replace(each, offset=offset))
        insort(by_offset, placed[-1], key=lambda other: other.offset)
    return placed


def alive(placed: Iterable[Placed], steps: int) -> list[int]:
    """The bytes alive at each of so many steps, or at the start where there are none. Parts count
    as what they lie in."""
    changes = [0] * (max(steps, 1) + 1)
    for each in placed:
        if each.slot.part is None:
            changes[each.first] += each.nbytes
            changes[each.last + 1] -= each.nbytes
    return list(accumulate(changes[:-1]))


def _extent(placed: Iterable[Placed]) -> int:
    return max((p.offset + p.nbytes for p in placed), default=0)


def check_capacity(plan: Plan, threads: int) -> None:
    """``CapacityError`` where the buffers, run on so many threads, exceed this machine's memory."""
    need = sum(part.constant_bytes + part.given_bytes + max(part.arena_bytes, part.passing_bytes)
               for part in plan.parts)  # fmt: skip
    need += plan.kept_bytes(threads) - plan.resident_bytes
    have = total_bytes()
    if need > have:
        largest = max(plan.program.slots, key=slot_bytes)
        raise CapacityError(
            f"the plan needs {need / 2**30:.1f} GiB and this machine has {have / 2**30:.1f} GiB; "
            f"the largest value is {largest.name!r} with {slot_bytes(largest) / 2**30:.1f} GiB"
        )


def total_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
