"""Compute equal things once."""

from __future__ import annotations

import ir
from ir.rewrite import substitute
from ir.types import Array

LARGEST = 4096  # bytes: larger weights are compared by identity alone


def merge_common_subexpressions(graph: ir.Graph) -> ir.Graph:
    """One node for all that apply the same op to the same values; equal small weights are one."""
    same: dict[str, str] = {}
    weights: dict[object, str] = {}
    for name, array in graph.weights.items():
        first = weights.setdefault(_identity(array), name)
        if first != name:
            same[name] = first
    nodes: dict[object, ir.Node] = {}
    dropped: dict[str, list[ir.Node]] = {}
    for node in graph.nodes:
        inputs = tuple(same.get(name, name) for name in node.inputs)
        key = type(node.op), repr(node.op), inputs  # 0.0 == -0.0, but they print apart
        first_node = nodes.setdefault(key, node)
        if first_node is not node:
            same |= dict(zip(node.outputs, first_node.outputs, strict=True))
            dropped[node.name] = []
    return ir.dead_code(substitute(graph, dropped, same)) if same else graph


def _identity(array: Array) -> object:
    if array.nbytes > LARGEST:
        return id(array)
    return array.dtype.str, array.shape, array.tobytes()
