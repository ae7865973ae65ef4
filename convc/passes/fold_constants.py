"""Compute what depends on weights alone, once, when the graph is compiled."""

from __future__ import annotations

import numpy as np

import ir
from ir.types import Array

LARGEST = 1 << 20  # bytes that a result may have where its operands are smaller
MOST_FLOPS = 10**8


def fold_constants(graph: ir.Graph) -> ir.Graph:
    """Results of ops on weights as weights, worked out by the interpreter.

    Left alone: what takes long, and what makes much out of little, such as expansions.
    """
    weights = dict(graph.weights)
    kept: list[ir.Node] = []
    for node in graph.nodes:
        if all(name in weights for name in node.inputs) and _small(graph, node):
            weights |= zip(node.outputs, _results(node, weights), strict=True)
        else:
            kept.append(node)
    if len(kept) == len(graph.nodes):
        return graph
    return ir.dead_code(graph.replace(weights=weights, nodes=tuple(kept)))


def _small(graph: ir.Graph, node: ir.Node) -> bool:
    operands = [graph.types[name] for name in node.inputs]
    made = sum(graph.types[name].static_nbytes for name in node.outputs)
    given = sum(type.static_nbytes for type in operands)
    return made <= max(LARGEST, given) and node.op.cost(*operands).flops <= MOST_FLOPS


def _results(node: ir.Node, weights: dict[str, Array]) -> list[Array]:
    with np.errstate(all="ignore"):
        results = node.op.evaluate(*(weights[name] for name in node.inputs))
    for array in results:
        array.flags.writeable = False
    return list(results)
