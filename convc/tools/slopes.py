"""Gradients of a whole model beside finite differences, in the interpreter alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import ir
from convc.tools import memory
from convc.tools.accuracy import Array
from convc.tools.table import nbytes
from ir.ops.arithmetic import Comparison
from ir.ops.functions import Flat

TOLERANCE = 1e-3  # relative: in large networks some kinks lie within any step
COPIES = 4  # of what is moved, in float64: as it is, a direction, the gradients, moved


@dataclass(frozen=True)
class Slopes:
    """The relative deviation; or what is wrong; or why nothing was compared."""

    deviation: float | None = None
    wrong: str | None = None
    skipped: str | None = None

    def __str__(self) -> str:
        what = "gradients, interpreted, beside finite differences"
        if self.deviation is not None:
            return f"{what}: ok, relative deviation {self.deviation:.1e}"
        if self.wrong is not None:
            return f"{what}: WRONG\n{self.wrong}"
        return f"{what}: not compared, {self.skipped}"


def check_slopes(
    graph: ir.Graph, back: ir.Graph, inputs: Mapping[str, Array], wrt: Sequence[str]
) -> Slopes:
    """Compare the gradients of a static graph, for which ``back`` is its graph of them, along one
    direction in all of ``wrt``."""
    moved = sum(8 * prod(graph.types[name].static_shape) for name in wrt)
    need = memory.comparing_bytes(ir.expand(back)) + COPIES * moved
    if need > memory.available_bytes():
        return Slopes(skipped=f"which takes about {nbytes(need)} of memory")
    try:
        return Slopes(ir.check_gradients(graph, inputs, wrt, directions=1, together=True,
                                         tolerance=TOLERANCE))  # fmt: skip
    except ir.GradientError as error:
        jumps = [node for node in ir.expand(graph).nodes if isinstance(node.op, Flat | Comparison)]
        if jumps:
            return Slopes(skipped=f"as {jumps[0]} jumps where its gradient is 0")
        return Slopes(wrong=str(error))
    except ir.InputError as error:
        return Slopes(skipped=str(error))
