"""Graph to graph: the pipeline, in the order it runs. Each pass keeps the meaning of its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import ir
from convc.passes.fuse_epilogues import fuse_epilogues
from convc.passes.relu_gradient_from_result import relu_gradient_from_result
from convc.passes.remove_dead_code import remove_dead_code

Pass = Callable[[ir.Graph], ir.Graph]
PIPELINE: tuple[Pass, ...] = (
    remove_dead_code,
    relu_gradient_from_result,
    fuse_epilogues,
)


def run_passes(
    graph: ir.Graph, passes: Sequence[Pass] = PIPELINE
) -> Iterator[tuple[str, ir.Graph]]:
    """The graph after each pass, with the pass's name."""
    for each in passes:
        graph = each(graph)
        yield each.__name__, graph


def optimised(graph: ir.Graph, passes: Sequence[Pass] = PIPELINE) -> ir.Graph:
    """The graph after all passes."""
    for _, after in run_passes(graph, passes):
        graph = after
    return graph
