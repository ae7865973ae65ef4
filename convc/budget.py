"""Algorithms whose weights take less memory, where a program would take too much."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import inf

from convc.errors import CapacityError
from convc.plan import Plan, slot_bytes
from convc.select import Choice

Pair = tuple[str, str]
"""A node and an algorithm, by their names."""


def to_give_up(choices: Sequence[Choice], plan: Plan, memory: int, threads: int) -> set[Pair]:
    """Choices to go without so that the plan, run on ``threads``, comes nearer to ``memory`` bytes;
    none if it fits.

    Those that lose the least time for each byte that their prepared weights take beyond the
    weights as given. Raises ``CapacityError`` where no choice takes more than it has to.
    """
    kept = plan.kept_bytes(threads)
    excess = kept - memory
    if excess <= 0:
        return set()
    larger = _beyond_weights(plan)
    prices = sorted(
        (_loss(choice) / larger[name], choice.node.name)
        for choice in choices
        if (name := choice.node.name) in larger and not choice.forced
    )
    given_up: set[Pair] = set()
    algorithms = {choice.node.name: choice.chosen.algorithm.name for choice in choices}
    for price, name in prices:
        if excess > 0 and price < inf:
            excess -= larger[name]
            given_up.add((name, algorithms[name]))
    if not given_up:
        weights = sum(part.constant_bytes + part.given_bytes for part in plan.parts)
        raise CapacityError(
            f"memory={memory}: the program keeps {kept:,} bytes (weights {weights:,}, intermediate "
            f"results {kept - weights:,}), and no other algorithms take less; allow more"
        )
    return given_up


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


def _loss(choice: Choice) -> float:
    """Seconds by which the next best algorithm is slower; infinite where there is none."""
    others = [c.cost for c in choice.applicable if c is not choice.chosen and not c.refused]
    return max(min(others, default=inf) - choice.chosen.cost, 0.0)
