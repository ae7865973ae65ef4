"""``convc show --at passes``: what each pass changes, and what that is good for."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

import ir
from convc.backend.target import Target
from convc.errors import AlgorithmError
from convc.passes import Pass, run_passes
from convc.select import choices
from convc.tools.table import nbytes, seconds, table

HEADER = ("after", "nodes", "Mflops", "bytes moved", "predicted")


def described(graph: ir.Graph, passes: Sequence[Pass], target: Target, diff: bool) -> Iterator[str]:
    """What each pass changes as a diff, if asked for, and a table of what the graph costs then."""
    before, rows = graph, [("(as given)", *_figures(graph, target))]
    for name, after in run_passes(graph, passes):
        old, new = (ir.to_text(each).splitlines() for each in (before, after))
        changed = old != new
        rows.append((name, *(_figures(after, target) if changed else rows[-1][1:])))
        if diff:
            yield f"{name}: {len(before.nodes)} -> {len(after.nodes)} nodes"
            if not changed:
                yield "  nothing changed"
            yield from difflib.unified_diff(old, new, "before", "after", lineterm="")
            yield ""
        before = after
    yield table(HEADER, rows)
    yield (
        "\nbytes moved: operands and results of every node; predicted: on one thread, every node "
        "by the\nalgorithm that is then chosen"
    )


def _figures(graph: ir.Graph, target: Target) -> tuple[str, ...]:
    cost = graph.cost()
    predicted = _predicted(graph, target)
    time = "-" if predicted is None else seconds(predicted)
    return str(len(graph.nodes)), f"{cost.flops / 1e6:.3f}", nbytes(cost.bytes), time


def _predicted(graph: ir.Graph, target: Target) -> float | None:
    """Seconds of the graph with composite ops written out; None where nothing computes an op."""
    try:
        return sum(choice.chosen.cost for choice in choices(ir.expand(graph), target))
    except AlgorithmError:
        return None
