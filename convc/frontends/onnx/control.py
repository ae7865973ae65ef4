"""If, and loops whose number of rounds is known: their graphs are imported in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from convc.frontends.onnx.call import Call, Result

if TYPE_CHECKING:
    from convc.frontends.onnx.importer import Importer, Scope


def _if(importer: Importer, n: Call, scope: Scope) -> Sequence[Result]:
    """The branch that a known condition chooses."""
    chosen = n.number(0, "the condition")
    graph = n.attributes.graph("then_branch" if chosen else "else_branch")
    return importer.branch(graph, n.node, scope)


CONTROL: dict[str, Callable[[Any, Call, Any], Sequence[Result]]] = {"If": _if}
"""Operators that hold graphs."""
