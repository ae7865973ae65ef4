"""Algorithms and pieces that take less memory, where a program would take too much."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from convc.errors import CapacityError
from convc.images import Pieces
from convc.plan import Plan, slot_bytes
from convc.select import Choice

Pair = tuple[str, str]
"""A node and an algorithm, by their names."""


@dataclass(frozen=True)
class Planned:
    """A graph in pieces, with chosen algorithms, and its plan."""

    pieces: Pieces
    choices: tuple[Choice, ...]
    plan: Plan


Make = Callable[[Pieces, Collection[Pair]], Planned]
"""Plans a graph in pieces, some of whose nodes do without an algorithm if they can."""


def within(memory: int, threads: int, ways: Iterable[Pieces], make: Make) -> Planned:
    """A plan that, run on so many threads, keeps at most ``memory`` bytes: of the ways to cut a
    graph into pieces, the fastest first, the first with one.

    Raises ``CapacityError`` with the least that any is found to keep, which is enough then.
    """
    search = _Search(threads, make)
    for pieces in ways:
        fitting = search.fitting(pieces, memory)
        if fitting is not None:
            return fitting
    least = search.least()  # found without regard to memory=, so that it is found again
    if least.plan.kept_bytes(threads) > memory:
        raise CapacityError(_too_little(memory, threads, least.plan))
    return least


class _Search:
    """Plans by ways and by what is given up, each made once."""

    def __init__(self, threads: int, make: Make) -> None:
        self.threads, self.make = threads, make
        self.made: dict[Pieces, dict[frozenset[Pair], Planned]] = {}

    def fitting(self, pieces: Pieces, memory: int) -> Planned | None:
        """A plan within a budget, if one is found."""
        for planned in self._less_and_less(pieces, memory):
            if self._kept(planned) <= memory:
                return planned
        return None

    def least(self) -> Planned:
        """The least plan, of the ways tried: all that can be is given up; from there on less, to
        come just below the least so far."""
        every = (each for pieces in self.made for each in self._less_and_less(pieces, 0))
        found = min(every, key=self._kept)
        while True:
            below = (self.fitting(pieces, self._kept(found) - 1) for pieces in self.made)
            better = next((each for each in below if each is not None), None)
            if better is None:
                return found
            found = better

    def _kept(self, planned: Planned) -> int:
        return planned.plan.kept_bytes(self.threads)

    def _less_and_less(self, pieces: Pieces, memory: int) -> Iterator[Planned]:
        """Plans that give up more and more, until one fits or nothing is left to give up."""
        known = self.made.setdefault(pieces, {})
        given_up = frozenset[Pair]()
        more: set[Pair] | None = None
        while more is None or more:
            if given_up not in known:
                known[given_up] = self.make(pieces, given_up)
            yield known[given_up]
            made = known[given_up]
            more = to_give_up(made.choices, made.plan, memory, self.threads)
            given_up |= more


def _too_little(memory: int, threads: int, least: Plan) -> str:
    kept = least.kept_bytes(threads)
    weights = sum(part.constant_bytes + part.given_bytes for part in least.parts)
    images = "" if least.images is None else f", image by image, threads: {threads}"
    return (
        f"memory={memory}: the least that the program was found to keep is {kept:,} bytes "
        f"(weights {weights:,}, intermediate results {kept - weights:,}{images}); allow as many"
    )


def to_give_up(choices: Sequence[Choice], plan: Plan, memory: int, threads: int) -> set[Pair]:
    """Choices to go without so that the plan, run on ``threads``, comes nearer to ``memory`` bytes;
    none if it fits, or where no choice takes more than it has to.

    First those that lose the least time for each byte that their prepared weights take beyond the
    weights as given; where these are not enough, those that work on memory of their own in steps
    at which too much is alive.
    """
    excess = plan.kept_bytes(threads) - memory
    free = {c.node.name: c for c in choices if not c.forced and _loss(c) < inf}
    larger = _beyond_weights(plan)
    prices = sorted((_loss(free[name]) / larger[name], name) for name in larger if name in free)
    given_up: set[str] = set()
    for _, name in prices:
        if excess > 0:
            excess -= larger[name]
            given_up.add(name)
    if excess > 0:
        images = plan.kept_bytes(threads) - plan.resident_bytes
        for part in plan.parts:
            each = excess if part is plan or not images else excess // threads
            given_up |= free.keys() & _crowded(part, part.arena_bytes - each)
    return {(name, free[name].chosen.algorithm.name) for name in given_up}


def _beyond_weights(plan: Plan) -> Mapping[str, int]:
    """The bytes by which what is prepared for a node exceeds what it is made of, where it does."""
    more = defaultdict[str, int](int)
    for part in plan.parts:
        slots = part.program.slots
        for step in part.prepare:
            made = sum(slot_bytes(slots[n]) for n in step.writes if n in part.constants)
            given = sum(slot_bytes(slots[n]) for n in step.reads)
            more[step.node] += made - given
    return {node: nbytes for node, nbytes in more.items() if nbytes > 0}


def _crowded(plan: Plan, room: int) -> set[str]:
    """The nodes with temporaries that nobody else uses, alive where more bytes are than there is
    room for."""
    full = {number for number, nbytes in enumerate(plan.alive) if nbytes > room}
    users = defaultdict[int, set[str]](set)
    for step in plan.steps:
        for slot in step.slots:
            users[slot].add(step.node)
    found: set[str] = set()
    for number, each in plan.temporaries.items():
        whole, lives = each.slot.part is None, range(each.first, each.last + 1)
        if whole and len(users[number]) == 1 and not full.isdisjoint(lives):
            found |= users[number]
    return found


def _loss(choice: Choice) -> float:
    """Seconds by which the next best algorithm is slower; infinite where there is none."""
    others = [c.cost for c in choice.applicable if c is not choice.chosen and not c.refused]
    return max(min(others, default=inf) - choice.chosen.cost, 0.0)
