"""Pools that whoever writes what they read can do as it stores."""

from __future__ import annotations

from typing import TypeAlias

import ir
from ir.ops import AveragePool, MaxPool

Pool: TypeAlias = MaxPool | AveragePool
SWEEP = "sweep"  # the algorithm of a pool that others may take over


def pool_of(graph: ir.Graph, node: ir.Node) -> tuple[str, Pool] | None:
    """The result and the op of a pool that alone reads a node's result, if its windows lie side by
    side, each whole."""
    (value, *others), readers = node.outputs, graph.consumers(node.name)
    if others or value in graph.outputs.values() or len(readers) != 1:
        return None
    (reader,) = readers
    op = reader.op
    if not isinstance(op, Pool) or any(map(any, op.pads)):
        return None
    x, y = (graph.types[name].static_shape[2:] for name in (value, reader.name))
    whole = all(out * k <= n for out, k, n in zip(y, op.window, x, strict=True))
    side_by_side = op.stride == op.extents == op.window
    return (reader.name, op) if whole and side_by_side else None
