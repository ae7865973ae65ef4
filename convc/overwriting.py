"""In place: results that are written over operands that nobody reads later."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from convc.program import Slot, Step
from ir.loops import Kernel, overwriting

Over = tuple[tuple[int, int], ...]  # places of an operand and a result among a step's slots


def in_place(
    slots: Sequence[Slot], steps: Sequence[Step], apart: Collection[int]
) -> tuple[Step, ...]:
    """The steps, with results in the slots of operands where a step may write ``over`` them and no
    later one needs them; only temporaries, and of these none that has parts or is one.

    ``apart``: slots that stay as they are.
    """
    last = {slot: number for number, step in enumerate(steps) for slot in step.slots}
    parts = {number for s in slots if s.part is not None for number in (s.number, s.part[0])}
    free = {s.number for s in slots if s.role == "temporary"} - parts - {*apart}
    new = set(free)  # as long as no step has used them
    lies: dict[int, int] = {}  # results in slots of operands
    kernels: dict[tuple[int, Over], Kernel] = {}
    made = []
    for number, step in enumerate(steps):
        here = replace(step, slots=tuple(lies.get(slot, slot) for slot in step.slots))
        ending = {slot for slot in here.slots if last[slot] == number} & free
        over = tuple(_pairs(here.slots, step.over, ending, new))
        for operand, result in over:
            lies[here.slots[result]] = here.slots[operand]
            last[here.slots[operand]] = last[here.slots[result]]
        new.difference_update(here.slots)
        made.append(_over(here, over, kernels))
    return tuple(made)


def _pairs(
    slots: Sequence[int], over: Over, ending: Collection[int], new: Collection[int]
) -> Iterator[tuple[int, int]]:
    """Those of a step that hold, each slot in one at most: operands that end with the step and
    that it does not read otherwise, results that begin with it."""
    taken: set[int] = set()
    for operand, result in over:
        pair = slots[operand], slots[result]
        once = all(slots.count(slot) == 1 for slot in pair)
        if once and pair[0] in ending and pair[1] in new and taken.isdisjoint(pair):
            taken.update(pair)
            yield operand, result


def _over(step: Step, over: Over, kernels: dict[tuple[int, Over], Kernel]) -> Step:
    """The step without the operands, whose slots are those of the results."""
    if not over:
        return replace(step, over=())
    key = id(step.kernel), over
    if key not in kernels:
        names = [param.name for param in step.kernel.params]
        kernels[key] = overwriting(step.kernel, {names[i]: names[j] for i, j in over})
    lies_in = {result: step.slots[operand] for operand, result in over}
    left = [place for place in range(len(step.slots)) if place not in dict(over)]
    slots = tuple(lies_in.get(place, step.slots[place]) for place in left)
    return replace(step, kernel=kernels[key], slots=slots, over=(),
                   overwrites=tuple(map(left.index, lies_in)))  # fmt: skip
