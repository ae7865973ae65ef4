"""Graph to graph: the pipeline, in the order it runs. Each pass keeps the meaning of its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import ir
from convc.errors import Error
from convc.passes.absorb_pads import absorb_pads
from convc.passes.compose_convolutions import compose_convolutions
from convc.passes.expand_composites import expand_composites
from convc.passes.fold_affine import fold_affine
from convc.passes.fold_constants import fold_constants
from convc.passes.fuse_elementwise import fuse_elementwise
from convc.passes.fuse_epilogues import fuse_epilogues
from convc.passes.merge_common_subexpressions import merge_common_subexpressions
from convc.passes.merge_siblings import merge_siblings
from convc.passes.move_transposes import move_transposes
from convc.passes.relu_gradient_from_result import relu_gradient_from_result
from convc.passes.remove_dead_code import remove_dead_code
from convc.passes.simplify import simplify
from ir.types import described

Pass = Callable[[ir.Graph], ir.Graph]
PIPELINE: tuple[Pass, ...] = (
    remove_dead_code,
    expand_composites,
    fold_constants,
    move_transposes,
    simplify,
    merge_common_subexpressions,
    fold_affine,
    absorb_pads,
    compose_convolutions,
    merge_siblings,
    relu_gradient_from_result,
    fuse_epilogues,
    fuse_elementwise,
)


def run_passes(
    graph: ir.Graph, passes: Sequence[Pass] = PIPELINE
) -> Iterator[tuple[str, ir.Graph]]:
    """The graph after each pass, with the pass's name. Raises ``Error`` for what is no pass."""
    for each in passes:
        graph = _result(each, graph)
        yield name_of(each), graph


def name_of(each: Pass) -> str:
    """The name of a pass: its function's, also inside ``functools.partial``, else its type's."""
    while isinstance(each, partial):
        each = each.func
    return str(getattr(each, "__name__", type(each).__name__))


def _result(each: Pass, before: ir.Graph) -> ir.Graph:
    """What a pass makes of a graph; an error that names it where that cannot be a replacement."""
    name = f"pass {name_of(each)}"
    try:
        after: object = each(before)
    except ir.Error as error:
        raise error.within(name) from error
    except Exception as error:
        error.add_note(f"raised in {name}")
        raise
    if not isinstance(after, ir.Graph):
        raise Error(f"{name} returned {described(after)}, not an ir.Graph")
    kept = (("inputs", _inputs(before), _inputs(after)),
            ("outputs", _outputs(before), _outputs(after)))  # fmt: skip
    for what, old, new in kept:
        if old != new:
            hint = "a pass keeps names, types and order"
            raise Error(f"{name} changed the {what} from ({old}) to ({new}); {hint}")
    return after


def _inputs(graph: ir.Graph) -> str:
    return ", ".join(f"{name}: {type}" for name, type in graph.inputs.items())


def _outputs(graph: ir.Graph) -> str:
    return ", ".join(f"{name}: {graph.types[value]}" for name, value in graph.outputs.items())


def optimised(graph: ir.Graph, passes: Sequence[Pass] = PIPELINE) -> ir.Graph:
    """The graph after all passes."""
    for _, after in run_passes(graph, passes):
        graph = after
    return graph
