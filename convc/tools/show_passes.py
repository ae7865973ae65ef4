"""``convc show --at passes``: what each pass changes, and what that is good for."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

import ir
from convc.errors import AlgorithmError
from convc.model import Options
from convc.passes import run_passes
from convc.select import choices
from convc.tools.table import nbytes, seconds, table

HEADER = ("after", "nodes", "Mflops", "bytes moved", "predicted")


def described(graph: ir.Graph, options: Options, diff: bool) -> Iterator[str]:
    """What each pass changes as a diff, if asked for, and a table of what the graph costs then."""
    before, rows = graph, [("(as given)", *_figures(graph, options))]
    for name, after in run_passes(graph, options.passes):
        old, new = (ir.to_text(each).splitlines() for each in (before, after))
        rows.append((name, *(_figures(after, options) if old != new else rows[-1][1:])))
        if diff:
            yield f"{name}: {_change(*rows[-2:]) if old != new else 'nothing changed'}"
            yield from difflib.unified_diff(old, new, "before", "after", lineterm="")
            yield ""
        before = after
    yield table(HEADER, rows)
    yield (
        "\nbytes moved: operands and results of every node; predicted: on one thread, every node "
        "by the\nalgorithm that is then chosen, with what it takes to convert its operands"
    )


def _change(before: Sequence[str], after: Sequence[str]) -> str:
    """Every figure by its name, as it was and as it is where it has changed."""
    figures = zip(HEADER[1:], before[1:], after[1:], strict=True)
    return "; ".join(f"{name} {f'{old} -> {new}' if old != new else old}"
                     for name, old, new in figures)  # fmt: skip


def _figures(graph: ir.Graph, options: Options) -> tuple[str, ...]:
    cost = graph.cost()
    predicted = _predicted(graph, options)
    time = "-" if predicted is None else seconds(predicted)
    return str(len(graph.nodes)), f"{cost.flops / 1e6:.3f}", nbytes(cost.bytes), time


def _predicted(graph: ir.Graph, options: Options) -> float | None:
    """Seconds of the graph with composite ops written out; None where nothing computes an op."""
    try:
        how = ir.expand(graph), options.target, options.accuracy
        made = choices(*how, by_image=options.by_image)
        return sum(choice.chosen.cost * (choice.piece.images or 1) for choice in made)
    except AlgorithmError:
        return None
