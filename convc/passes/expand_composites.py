"""Write composite ops out, so that what follows sees only ops that algorithms compute."""

from __future__ import annotations

import ir


def expand_composites(graph: ir.Graph) -> ir.Graph:
    """The graph with every composite op replaced by its parts."""
    return ir.expand(graph)
