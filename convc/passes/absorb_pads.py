"""Let convolutions and pools do the padding of what they read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import ir
from convc.passes.changes import Changes, alone
from ir.ops import AveragePool, Conv, ConvInputGrad, ConvWeightGrad, MaxPool, Pad, Slice
from ir.ops.pool import PoolAttributes
from ir.ops.window import Pads


def absorb_pads(graph: ir.Graph) -> ir.Graph:
    """Zeros around an image become pads of the convolutions and average pools that read it, -∞
    those of maximum pools; a part cut out of a transposed convolution is all that is computed."""
    changes = Changes(graph)
    for node in graph.nodes:
        if isinstance(node.op, Slice):
            _cut(changes, node)
        elif isinstance(node.op, Conv | ConvWeightGrad | MaxPool | AveragePool):
            _padded(changes, node)
    return changes.applied()


def _padded(changes: Changes, node: ir.Node) -> None:
    at = 1 if isinstance(node.op, ConvWeightGrad) else 0
    source = changes.graph.producer(node.inputs[at])
    if source is None or not isinstance(source.op, Pad):
        return
    around = _spatial(source.op)
    op = None if around is None else _with_pads(node.op, around, source.op.value)
    if op is None:
        return
    inputs = list(node.inputs)
    inputs[at] = source.inputs[0]
    types = [changes.graph.types[name] for name in inputs]
    try:
        fits = op.infer(*types) == (changes.graph.types[node.outputs[0]],)
    except ir.Error:
        return
    if fits:
        changes.replace([node], [ir.Node(op, tuple(inputs), node.outputs)])


def _spatial(pad: Pad) -> Pads | None:
    """What a pad puts around the spatial axes; None if it does anything else."""
    pairs = _static(pad.pads)
    least = min((amount for pair in pairs for amount in pair), default=0)
    plain = least >= 0 and not any(pad.interior) and not any(map(any, pairs[:2]))
    return pairs[2:] if plain and len(pairs) > 2 else None


def _static(pads: Sequence[tuple[ir.Dim, ir.Dim]]) -> Pads:
    """Pads of a graph without symbols."""
    return tuple((cast(int, lo), cast(int, hi)) for lo, hi in pads)


def _with_pads(op: ir.Op, around: Pads, filler: float) -> ir.Op | None:
    """The op with as many pads more; None where its own do not mean such a filler."""
    if isinstance(op, Conv | ConvWeightGrad):
        return replace(op, pads=_sum(op.pads, around)) if filler == 0 else None
    assert isinstance(op, PoolAttributes)
    pads = _sum(op.pads, around)
    inside = all(max(pair) < k for pair, k in zip(pads, op.extents, strict=True))
    if op.edge != "drop" or not inside:
        return None
    if isinstance(op, MaxPool):
        return replace(op, pads=pads) if filler == -math.inf else None
    assert isinstance(op, AveragePool)
    if filler != 0 or (op.divisor == "real" and any(map(any, op.pads))):
        return None
    return replace(op, pads=pads, divisor="one" if op.divisor == "one" else "padded")


def _sum(a: Pads, b: Pads) -> Pads:
    pairs = zip(a, b, strict=True)
    return tuple((first[0] + second[0], first[1] + second[1]) for first, second in pairs)


def _cut(changes: Changes, node: ir.Node) -> None:
    graph, op = changes.graph, node.op
    assert isinstance(op, Slice)
    source = graph.producer(node.inputs[0])
    if source is None or not isinstance(source.op, ConvInputGrad):
        return
    whole, part = graph.types[source.outputs[0]], graph.types[node.outputs[0]]
    if alone(graph, source.outputs[0]) is not node or any(step != 1 for step in op.steps):
        return
    if part.shape[:2] != whole.shape[:2]:
        return
    margins = op.margins(whole)[2:]
    pads = _sum(source.op.pads, _static(margins))
    smaller = replace(source.op, pads=pads, size=part.shape[2:])
    changes.replace([source, node], [ir.Node(smaller, source.inputs, node.outputs)])
