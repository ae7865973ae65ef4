"""Take relu's gradient from its result, so that nobody needs the value before it."""

from __future__ import annotations

from dataclasses import replace

import ir
from ir.ops import Relu, ReluGrad
from ir.rewrite import substitute


def relu_gradient_from_result(graph: ir.Graph) -> ir.Graph:
    """``relu_grad(x, g)`` becomes ``relu_grad(relu(x), g)`` where relu(x) is computed before it.

    Both are positive at the same places, and NaN is positive at neither.
    """
    results: dict[str, str] = {}
    changed: dict[str, list[ir.Node]] = {}
    for node in graph.nodes:
        if isinstance(node.op, Relu):
            results[node.inputs[0]] = node.outputs[0]
        elif isinstance(node.op, ReluGrad) and node.inputs[0] in results:
            inputs = (results[node.inputs[0]], node.inputs[1])
            changed[node.name] = [replace(node, inputs=inputs)]
    return substitute(graph, changed) if changed else graph
