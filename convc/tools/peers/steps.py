"""Graphs as other engines see them: steps that take more operands than nodes do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

import ir
from convc.errors import Error
from ir import ops
from ir.ops.pool import PoolAttributes

Array: TypeAlias = npt.NDArray[Any]
Inputs: TypeAlias = Mapping[str, Array]


class UntranslatableError(Error):
    """An engine has nothing like a node of the graph."""


@dataclass(frozen=True)
class Step:
    """A node, with what comes after it if engines take that as more operands of the same op."""

    op: ir.Op
    operands: tuple[str, ...]
    result: str


def steps(graph: ir.Graph) -> list[Step]:
    """The nodes in order. A bias joins the convolution or product that it follows; the scale and
    the shift of a batch normalisation join that."""
    made: list[Step] = []
    place: dict[str, int] = {}
    for node in graph.nodes:
        joined = _joined(graph, node, made, place)
        if joined is not None:
            number = place.pop(node.inputs[0])
            made[number] = joined
            place[joined.result] = number
        else:
            place[node.name] = len(made)
            made.append(Step(node.op, node.inputs, node.name))
    used = {*graph.outputs.values(), *(name for step in made for name in step.operands)}
    return [step for step in made if step.result in used]


def _joined(
    graph: ir.Graph, node: ir.Node, made: Sequence[Step], place: Mapping[str, int]
) -> Step | None:
    """The step that computes the first operand of a node, with the node in it; None if it may
    not. What it reads must be known where that step stands: a weight, or made of one."""
    first = made[place[node.inputs[0]]] if node.inputs[0] in place else None
    if first is None or graph.consumers(first.result) != (node,):
        return None
    if first.result in graph.outputs.values() or len(node.inputs) != 2:
        return None
    other = node.inputs[1]
    count = len(first.operands)
    norm = isinstance(first.op, ops.BatchNorm)
    if isinstance(node.op, ops.Mul) and norm and count == 3:
        column = graph.producer(other)
        other = column.inputs[0] if column and isinstance(column.op, ops.Reshape) else ""
        if other in graph.weights and graph.types[other].shape == graph.types[node.name].shape[1:2]:
            return Step(first.op, (*first.operands, other), node.name)
    if isinstance(node.op, ops.Bias) and other in graph.weights:
        plain = isinstance(first.op, ops.Conv | ops.ConvInputGrad | ops.Dense) and count == 2
        if plain or (norm and count == 4):
            return Step(first.op, (*first.operands, other), node.name)
    return None


def unread(graph: ir.Graph, step: Step) -> list[int]:
    """Cells at the high end of a transposed convolution's result beyond the smallest result."""
    op = step.op
    assert isinstance(op, ops.ConvInputGrad)
    w, g = (graph.types[name].static_shape[2:] for name in step.operands[:2])
    size = graph.types[step.result].static_shape[2:]
    axes = zip(size, g, w, op.stride, op.pads, op.dilation, strict=True)
    return [n - ((m - 1) * s - lo - hi + (k - 1) * d + 1) for n, m, k, s, (lo, hi), d in axes]


def is_global(graph: ir.Graph, step: Step) -> bool:
    """Whether a mean is that of whole channels: of [N, C, *S], over all of S."""
    rank = graph.types[step.operands[0]].rank
    return isinstance(step.op, ops.Mean) and rank > 2 and step.op.axes == tuple(range(2, rank))


def fits(graph: ir.Graph, step: Step) -> bool:
    """Whether the windows of a pool are no larger than the padded image."""
    op = step.op
    assert isinstance(op, PoolAttributes)
    size = graph.types[step.operands[0]].static_shape[2:]
    axes = zip(size, op.extents, op.pads, strict=True)
    return all(n + lo + hi >= k for n, k, (lo, hi) in axes)
