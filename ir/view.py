"""Graphs as networkx graphs, for drawing and for its algorithms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ir.graph import Graph

if TYPE_CHECKING:
    import networkx


def to_networkx(graph: Graph) -> networkx.MultiDiGraph[str]:
    """One networkx node per input, weight and node, one edge per operand.

    Nodes carry `kind` ("input", "weight", "node"), `op` (None for the first two) and `types`
    (those of the values they define); edges carry `value`, `type` and `operand`.
    """
    import networkx

    view: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(name=graph.name)
    for kind, names in (("input", graph.inputs), ("weight", graph.weights)):
        for name in names:
            view.add_node(name, kind=kind, op=None, types=(graph.types[name],))
    for node in graph.nodes:
        types = tuple(graph.types[value] for value in node.outputs)
        view.add_node(node.name, kind="node", op=node.op, types=types)
        for operand, value in zip(node.op.operand_names(), node.inputs, strict=True):
            producer = graph.producer(value)
            source = producer.name if producer else value
            type = graph.types[value]
            view.add_edge(source, node.name, value=value, type=type, operand=operand)
    return view
