"""If, and loops whose number of rounds is known: their graphs are imported in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from convc.frontends.onnx.call import Call, Known, Operand, Result
from convc.frontends.onnx.errors import ConstantNeededError, NodeError

if TYPE_CHECKING:
    from convc.frontends.onnx.importer import Importer, Scope

MAX_ROUNDS = 10_000


def _if(importer: Importer, n: Call, scope: Scope) -> Sequence[Result]:
    """The branch that a known condition chooses."""
    chosen = n.number(0, "the condition")
    graph = n.attributes.graph("then_branch" if chosen else "else_branch")
    return importer.branch(graph, n.node, scope)


def _loop(importer: Importer, n: Call, scope: Scope) -> Sequence[Result]:
    """All rounds, one after the other; what each round gives out besides is stacked."""
    body = n.attributes.graph("body")
    rounds = n.number(0, "the number of rounds") if n.has(0) else float("inf")
    going = bool(n.number(1, "the condition")) if n.has(1) else True
    carried: list[Operand] = [n.operand(number) for number in range(2, n.count)]
    stacks: list[list[Operand]] = [[] for _ in body.output[1 + len(carried) :]]
    if len(body.input) != 2 + len(carried) or len(body.output) < 1 + len(carried):
        raise NodeError(f"its graph does not fit {len(carried)} values from round to round")
    for number in count():
        if not going or number >= rounds:
            break
        if number == MAX_ROUNDS:
            raise NodeError(f"more than {MAX_ROUNDS} rounds")
        given = [Known(np.array(number)), Known(np.array(going)), *carried]
        condition, *made = importer.branch(body, n.node, scope, given, f"{number}.")
        if not isinstance(condition, Known):
            raise ConstantNeededError("the condition must be known at import", condition.inputs)
        going = bool(condition.array)
        carried = made[: len(carried)]
        for stack, value in zip(stacks, made[len(carried) :], strict=True):
            stack.append(value)
    return [*carried, *(_stacked(n, stack) for stack in stacks)]


def _stacked(n: Call, parts: Sequence[Operand]) -> Result:
    if not parts:
        raise NodeError("results of no rounds have no shape")
    known = [part.array for part in parts if isinstance(part, Known)]
    if len(known) == len(parts):
        n.budget(sum(array.nbytes for array in known))
        return np.stack(known)
    rows = [n.live(part) for part in parts]
    return n.b.concat([n.b.reshape(row, (1, *row.shape)) for row in rows], 0)


CONTROL: dict[str, Callable[[Any, Call, Any], Sequence[Result]]] = {"If": _if, "Loop": _loop}
"""Operators that hold graphs."""
