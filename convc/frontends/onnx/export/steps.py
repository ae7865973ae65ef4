"""Graphs as other engines see them: steps that take more operands than nodes do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir
from ir import ops
from ir.dims import Dim
from ir.ops.pool import PoolAttributes


@dataclass(frozen=True)
class Step:
    """A node, with what comes after it if engines take that as more operands of the same op."""

    op: ir.Op
    operands: tuple[str, ...]
    results: tuple[str, ...]

    @property
    def result(self) -> str:
        """The first result; most have only one."""
        return self.results[0]


def steps(graph: ir.Graph) -> list[Step]:
    """The nodes in order. A bias joins the convolution or product that it follows; the scale and
    the shift of a normalisation join that."""
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
            made.append(Step(node.op, node.inputs, node.outputs))
    used = {*graph.outputs.values(), *(name for step in made for name in step.operands)}
    return [step for step in made if used.intersection(step.results)]


def _joined(
    graph: ir.Graph, node: ir.Node, made: Sequence[Step], place: Mapping[str, int]
) -> Step | None:
    """The step that computes the first operand of a node, with the node in it; None if it may
    not. What it reads must be known where that step stands: an input, a weight, or made of one."""
    first = made[place[node.inputs[0]]] if node.inputs and node.inputs[0] in place else None
    if first is None or not first.operands:
        return None
    if len(node.inputs) != 2 or len(first.results) > 1:
        return None
    if first.result in graph.outputs.values() or graph.consumers(first.result) != (node,):
        return None
    other = _parameter(graph, node, first)
    if other is None or graph.producer(other) is not None:
        return None
    return Step(first.op, (*first.operands, other), node.outputs)


def _parameter(graph: ir.Graph, node: ir.Node, first: Step) -> str | None:
    """What the node adds to the step or multiplies it by, if the step takes that next."""
    wanted = len(first.op.operand_names())
    scaled, count = len(first.operands) - wanted, len(first.operands)
    other, x = node.inputs[1], graph.types[first.operands[0]]
    if isinstance(node.op, ops.Bias):
        plain = isinstance(first.op, ops.Conv | ops.ConvInputGrad | ops.Dense) and count == wanted
        return other if plain or (is_by_channel(first.op, x.rank) and scaled == 1) else None
    if isinstance(node.op, ops.Mul) and scaled == 0 and is_by_channel(first.op, x.rank):
        column = graph.producer(other)
        inner = column.inputs[0] if column and isinstance(column.op, ops.Reshape) else ""
        if inner not in graph.types or graph.types[inner].shape != x.shape[1:2]:
            return None
        flat = (*x.shape[1:2], *(1,) * (x.rank - 2))
        return inner if graph.types[other].shape == flat else None
    adds = isinstance(node.op, ops.Add) and scaled == 1 and not isinstance(first.op, ops.RmsNorm)
    if (adds or (isinstance(node.op, ops.Mul) and scaled == 0)) and is_trailing(first.op, x.rank):
        assert isinstance(first.op, ops.LayerNorm)
        return other if graph.types[other].shape == x.shape[first.op.axes[0] :] else None
    return None


def is_by_channel(op: ir.Op, rank: int) -> bool:
    """Whether engines scale what this op normalises channel by channel."""
    instances = type(op) is ops.LayerNorm and rank > 2 and op.axes == tuple(range(2, rank))
    return instances or isinstance(op, ops.BatchNorm | ops.GroupNorm)


def is_trailing(op: ir.Op, rank: int) -> bool:
    """Whether an op normalises over the last axes, and is not one by channel."""
    if not isinstance(op, ops.LayerNorm) or not op.axes or is_by_channel(op, rank):
        return False
    return op.axes == tuple(range(op.axes[0], rank))


def unread(op: ops.ConvInputGrad, w: Sequence[Dim], g: Sequence[Dim]) -> tuple[Dim, ...]:
    """Cells at the high end of a transposed convolution's result beyond the smallest result, for
    spatial extents of the kernel and of what is convolved."""
    axes = zip(op.size, g, w, op.stride, op.pads, op.dilation, strict=True)
    return tuple(n - ((m - 1) * s - lo - hi + (k - 1) * d + 1)
                 for n, m, k, s, (lo, hi), d in axes)  # fmt: skip


def is_global(op: ir.Op, rank: int) -> bool:
    """Whether a mean is that of whole channels: of [N, C, *S], over all of S."""
    return isinstance(op, ops.Mean) and rank > 2 and op.axes == tuple(range(2, rank))


def fits(op: PoolAttributes, size: Sequence[Dim]) -> bool:
    """Whether the windows of a pool are no larger than the padded image, as symbolic extents
    promise."""
    axes = zip(size, op.extents, op.pads, strict=True)
    return all(not isinstance(n, int) or n + lo + hi >= k for n, k, (lo, hi) in axes)
