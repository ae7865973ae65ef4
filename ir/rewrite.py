"""Helpers for passes: dead code, and substitution of nodes and values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ir.graph import Graph, Node
from ir.types import Array


def dead_code(graph: Graph) -> Graph:
    """`graph` without the nodes and weights that no output depends on; inputs stay."""
    live = set(graph.outputs.values())
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if live.intersection(node.outputs):
            live.update(node.inputs)
            kept.append(node)
    weights = {name: array for name, array in graph.weights.items() if name in live}
    if len(kept) == len(graph.nodes) and len(weights) == len(graph.weights):
        return graph
    return graph.replace(weights=weights, nodes=tuple(reversed(kept)))


def substitute(
    graph: Graph,
    nodes: Mapping[str, Sequence[Node]],
    values: Mapping[str, str] | None = None,
    weights: Mapping[str, Array] | None = None,
) -> Graph:
    """`graph` with each node named in `nodes` replaced by a sequence, and values renamed in uses.

    The replacements stand where the node stood; `values` maps a value to the one that every
    reader, and every output, uses instead. Chains of renamings are followed. `weights` are
    added to those of the graph.
    """
    renamed = {} if values is None else values
    written = [part for node in graph.nodes for part in nodes.get(node.name, (node,))]
    changed = [
        node if renamed.keys().isdisjoint(node.inputs)
        else replace(node, inputs=tuple(_follow(node.inputs, renamed)))
        for node in written
    ]  # fmt: skip
    targets = _follow(graph.outputs.values(), renamed)
    outputs = dict(zip(graph.outputs, targets, strict=True))
    extended = {**graph.weights, **(weights or {})}
    return graph.replace(weights=extended, nodes=tuple(changed), outputs=outputs)


def _follow(names: Iterable[str], renamed: Mapping[str, str]) -> list[str]:
    found = list(names)
    for index, name in enumerate(found):
        while name in renamed:
            name = renamed[name]
        found[index] = name
    return found
