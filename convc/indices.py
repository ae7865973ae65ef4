"""What integers may be: labels and positions have a bound, which is checked at a model's door."""

from __future__ import annotations

from dataclasses import dataclass

import ir
from ir.ops import Expand, Reshape, Take, TakeAlong, Transpose
from ir.ops.loss import LabelLoss
from ir.ops.movement import Moving
from ir.types import Array

MOVES = (Reshape, Transpose, Expand, Moving)


@dataclass(frozen=True, order=True)
class Bound:
    """Integers in [0, limit), which are labels or indices."""

    limit: int
    noun: str

    def check(self, what: str, array: Array) -> None:
        """InputError where one of the integers is outside."""
        if array.size and not (array.min() >= 0 and array.max() < self.limit):
            wrong = array[(array < 0) | (array >= self.limit)].flat[0]
            raise ir.InputError(f"{what}: {self.noun} {wrong} is not in [0, {self.limit})")


def bounds(graph: ir.Graph) -> dict[str, Bound]:
    """The least bound of each value of a static graph that is read as labels or indices.

    It is followed to where the integers come from, through ops that only move them.
    """
    found: dict[str, Bound] = {}
    for node in reversed(graph.nodes):
        limit = node.op.index_bound(*(graph.types[name] for name in node.inputs))
        if isinstance(limit, int):
            noun = "label" if isinstance(node.op, LabelLoss) else "index"
            _tighten(found, node.inputs[1], Bound(limit, noun))
        passed = found.get(node.outputs[0])
        if passed is not None and isinstance(node.op, MOVES):
            moved = node.inputs[:1] if isinstance(node.op, Take | TakeAlong) else node.inputs
            for name in moved:
                _tighten(found, name, passed)
    return found


def _tighten(found: dict[str, Bound], name: str, bound: Bound) -> None:
    found[name] = min(found.get(name, bound), bound)


def check_weights(graph: ir.Graph) -> None:
    """InputError where a weight that is read as labels or indices is out of bounds."""
    for name, bound in bounds(graph).items():
        if name in graph.weights:
            bound.check(f"weight '{name}'", graph.weights[name])
