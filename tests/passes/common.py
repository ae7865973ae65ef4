"""What tests of passes share: short texts, random weights, and whether the meaning stays."""

from __future__ import annotations

import numpy as np

import ir
from convc.passes import PIPELINE, Pass, optimised
from convc.tools.accuracy import random_inputs


class Draft(ir.Builder):
    """A builder in float64 with random weights."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__("draft")
        self.rng = np.random.default_rng(seed)

    def pick(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def image(self, *shape: int) -> ir.Value:
        return self.input(self.fresh("x"), f"f64[{', '.join(map(str, shape))}]")

    def drawn(self, *shape: int) -> ir.Value:
        return self.weight(self.fresh("w"), self.rng.uniform(0.5, 2.0, shape))

    def whole(self, *shape: int) -> ir.Value:
        return self.weight(self.fresh("w"), self.rng.standard_normal(shape))


def body(graph: ir.Graph) -> list[str]:
    """A line per node: ``y = op(a, b)``."""
    return [f"{node.name} = {node.op.name}({', '.join(node.inputs)})" for node in graph.nodes]


def kinds(graph: ir.Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


def after(graph: ir.Graph, *passes: Pass) -> ir.Graph:
    """The graph after passes, checked to mean the same in float64; also after all others."""
    better = optimised(graph, passes)
    same(graph, better)
    same(graph, optimised(graph, PIPELINE))
    return better


def same(before: ir.Graph, later: ir.Graph, tolerance: float = 1e-11) -> None:
    inputs = random_inputs(before, 1)
    wanted, found = (ir.interpret(graph, inputs) for graph in (before, later))
    assert list(wanted) == list(found)
    for name, array in wanted.items():
        scale = np.max(np.abs(array[np.isfinite(array)]), initial=1.0)
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance * scale)
