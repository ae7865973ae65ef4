"""Let a convolution or product finish its own result: bias, rectifier, residual add, …"""

from __future__ import annotations

from collections.abc import Collection

import ir
from ir.ops import (
    Add,
    Conv,
    ConvInputGrad,
    Dense,
    Elu,
    Erf,
    Exp,
    Fused,
    Gelu,
    Log,
    Logistic,
    Maximum,
    Minimum,
    Mul,
    Power,
    Silu,
    Softplus,
    Tanh,
)
from ir.ops.fused import finishes, running_operand, takes
from ir.rewrite import substitute

LONGEST = 6  # ops: those that read their operand twice double the expression
ROOTS = (Conv, ConvInputGrad, Dense)
LONG = (Exp, Log, Power, Tanh, Logistic, Erf, Softplus, Silu, Gelu, Elu)
COMMUTATIVE = (Add, Mul, Maximum, Minimum)


def fuse_epilogues(graph: ir.Graph) -> ir.Graph:
    """Each root, with the chain of elementwise ops that alone reads its result, as one node.

    Ops that are long computations do better in a loop of their own: that they save a trip through
    memory is little beside their time, and a tile of accumulators repeats their code many times.
    """
    changed: dict[str, list[ir.Node]] = {}
    outputs = set(graph.outputs.values())
    for root in graph.nodes:
        chain = _chain(graph, root, outputs, changed) if isinstance(root.op, ROOTS) else []
        if chain:
            inputs = list(root.inputs)
            running = root.outputs[0]
            for node in chain:
                inputs += [name for name in node.inputs if name != running]
                running = node.outputs[0]
            op = Fused(root.op, tuple(node.op for node in chain))
            changed |= {node.name: [] for node in (root, *chain)}
            changed[running] = [ir.Node(op, tuple(inputs), (running,))]
    return substitute(graph, changed) if changed else graph


def _chain(
    graph: ir.Graph, root: ir.Node, outputs: set[str], taken: Collection[str]
) -> list[ir.Node]:
    """What follows the root and can be fused; an op that joins two chains is the first one's."""
    chain: list[ir.Node] = []
    value = root.outputs[0]
    while value not in outputs and len(chain) < LONGEST:
        readers = graph.consumers(value)
        if len(readers) != 1 or readers[0].name in taken:
            break
        if not _finishes(graph, readers[0], value):
            break
        chain.append(readers[0])
        value = readers[0].outputs[0]
    return chain


def _finishes(graph: ir.Graph, node: ir.Node, value: str) -> bool:
    """Whether the node maps ``value`` to another of its type, reading it once and where it may."""
    if not finishes(node.op) or isinstance(node.op, LONG) or node.inputs.count(value) != 1:
        return False
    at = node.inputs.index(value)
    in_place = at == running_operand(node.op) or isinstance(node.op, COMMUTATIVE)
    same = graph.types[node.name] == graph.types[value]
    others = (graph.types[name] for name in node.inputs if name != value)
    return in_place and same and all(takes(node.op, graph.types[value], t) for t in others)
