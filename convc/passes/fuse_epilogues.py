"""Let a convolution or product finish its own result: bias, relu, residual add."""

from __future__ import annotations

import ir
from ir.ops import Add, Bias, Conv, ConvInputGrad, Dense, Fused, Relu
from ir.rewrite import substitute

LONGEST = 16  # ops: a kernel takes so many buffers and no more
ROOTS = (Conv, ConvInputGrad, Dense)


def fuse_epilogues(graph: ir.Graph) -> ir.Graph:
    """Each root, with the chain of pointwise ops that alone reads its result, as one node."""
    changed: dict[str, list[ir.Node]] = {}
    outputs = set(graph.outputs.values())
    for root in graph.nodes:
        chain = _chain(graph, root, outputs) if isinstance(root.op, ROOTS) else []
        if chain and not any(node.name in changed for node in (root, *chain)):
            inputs = list(root.inputs)
            running = root.outputs[0]
            for node in chain:
                inputs += _others(node, running)
                running = node.outputs[0]
            op = Fused(root.op, tuple(node.op for node in chain))
            changed |= {node.name: [] for node in (root, *chain)}
            changed[running] = [ir.Node(op, tuple(inputs), (running,))]
    return substitute(graph, changed) if changed else graph


def _chain(graph: ir.Graph, root: ir.Node, outputs: set[str]) -> list[ir.Node]:
    chain: list[ir.Node] = []
    value = root.outputs[0]
    while value not in outputs and len(chain) < LONGEST:
        readers = graph.consumers(value)
        if len(readers) != 1 or not _finishes(graph, readers[0], value):
            break
        chain.append(readers[0])
        value = readers[0].outputs[0]
    return chain


def _finishes(graph: ir.Graph, node: ir.Node, value: str) -> bool:
    """Whether the node maps ``value`` to another of its type, reading it once."""
    if isinstance(node.op, Bias):
        return node.inputs[0] == value and node.inputs[1] != value
    if isinstance(node.op, Add):
        types = {graph.types[name] for name in (*node.inputs, *node.outputs)}
        return len(types) == 1 and node.inputs.count(value) == 1
    return isinstance(node.op, Relu)


def _others(node: ir.Node, running: str) -> list[str]:
    return [name for name in node.inputs if name != running]
