"""1x1 convolutions of the same image are one with more outputs, where that reads less."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import ir
from convc.passes.changes import Changes, alone, constant_bias
from ir.ops import Conv, Relu, Slice


def merge_siblings(graph: ir.Graph) -> ir.Graph:
    """1x1 convolutions that differ in nothing but their weights, with a bias and a rectifier if
    all have them, as one, of which each takes its channels.

    The image is read once instead of several times, but results are copied out of the large one:
    it has to have many channels, and the results few.
    """
    changes = Changes(graph)
    for value in graph.types:
        groups: dict[Conv, list[ir.Node]] = {}
        for reader in graph.consumers(value):
            if isinstance(reader.op, Conv) and _suits(graph, reader, value):
                groups.setdefault(reader.op, []).append(reader)
        for siblings in groups.values():
            if len(siblings) > 1 and _pays(graph, value, siblings):
                _merge(changes, value, siblings)
    return changes.applied()


def _suits(graph: ir.Graph, node: ir.Node, value: str) -> bool:
    """Whether it is a convolution of the value by single known weights per pair of channels."""
    assert isinstance(node.op, Conv)
    w = graph.weights.get(node.inputs[1])
    if node.inputs[0] != value or w is None or node.op.groups > 1:
        return False
    return all(k == 1 for k in w.shape[2:]) and not any(map(any, node.op.pads))


def _pays(graph: ir.Graph, value: str, siblings: Sequence[ir.Node]) -> bool:
    read = (len(siblings) - 1) * graph.types[value].static_nbytes
    copied = 2 * sum(graph.types[node.outputs[0]].static_nbytes for node in siblings)
    return read > copied


def _merge(changes: Changes, value: str, siblings: Sequence[ir.Node]) -> None:
    """The convolution of all, what finishes it, and a slice for each, where the first one was."""
    graph = changes.graph
    chains = _alike([_chain(graph, node) for node in siblings])
    stem = f"{siblings[0].name}.merged"
    parts: list[ir.Node] = []
    for level in zip(*chains, strict=True):
        inputs = [parts[-1].outputs[0] if parts else value]
        arrays = [graph.weights[node.inputs[1]] for node in level if len(node.inputs) > 1]
        if arrays:
            inputs.append(changes.weight(f"{stem}.weight", np.concatenate(arrays)))
        parts.append(ir.Node(level[0].op, tuple(inputs), (changes.fresh(stem),)))
    whole, start = parts[-1].outputs[0], 0
    for chain in chains:
        y = graph.types[chain[-1].outputs[0]]
        op = Slice((0, start, *(0,) * (y.rank - 2)), y.shape, (1,) * y.rank)
        parts.append(ir.Node(op, (whole,), chain[-1].outputs))
        start += y.static_shape[1]
    changes.replace([node for chain in chains for node in chain], parts, siblings[0])


def _alike(chains: Sequence[list[ir.Node]]) -> list[list[ir.Node]]:
    """As much of the chains as applies the same ops in all of them."""
    depth = 0
    for level in zip(*chains, strict=False):
        if any(node.op != level[0].op for node in level):
            break
        depth += 1
    return [chain[:depth] for chain in chains]


def _chain(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    """A convolution, the constant bias that alone reads it, the rectifier that alone reads that."""
    chain = [node]
    after = alone(graph, node.outputs[0])
    if after is not None and constant_bias(graph, after, node.outputs[0]) is not None:
        chain.append(after)
        after = alone(graph, after.outputs[0])
    if after is not None and isinstance(after.op, Relu):
        chain.append(after)
    return chain
