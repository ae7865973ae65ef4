"""Drop what no output depends on."""

from __future__ import annotations

import ir


def remove_dead_code(graph: ir.Graph) -> ir.Graph:
    """The graph without the nodes and weights that no output needs; its inputs stay."""
    return ir.dead_code(graph)
