"""What a graph tells about a network without running it: parameters and receptive fields."""

from __future__ import annotations

from dataclasses import dataclass

from ir.errors import GraphError, did_you_mean
from ir.graph import Graph, Node
from ir.op import Op
from ir.ops.conv import Conv, ConvGeometry, ConvInputGrad, ConvWeightGrad
from ir.ops.movement import Concat, Slice
from ir.ops.pointwise import Bias, Broadcasting, Unary
from ir.ops.pool import PoolAttributes
from ir.ops.tiled import TiledBias, TiledConv
from ir.ops.window import Pads
from ir.types import TensorType


@dataclass(frozen=True)
class ReceptiveField:
    """The cells of a source that one cell of a value depends on, per spatial axis.

    Cell j reads `size` cells from start + j·jump on; those before 0 or beyond the end are padding.
    """

    size: tuple[int, ...]
    jump: tuple[int, ...]
    start: tuple[int, ...]


def parameters(graph: Graph) -> int:
    """How many numbers the float weights of a graph hold; scalars are constants."""
    floats = (array for array in graph.weights.values() if array.dtype.kind == "f" and array.ndim)
    return sum(array.size for array in floats)


def receptive_fields(graph: Graph, source: str) -> dict[str, ReceptiveField]:
    """For each value that depends on `source` [N, C, *S] cell by cell: which cells it depends on.

    Through convolutions, pooling, elementwise ops, slices and channels put together; beyond others
    (flattening, dense layers, circular padding) no field is told, for it is the whole image.
    Layer by layer, r' = r + (k-1)·j and j' = j·s: Goodfellow et al. 2016, figure 9.4.
    """
    if source not in graph.types:
        hint = did_you_mean(source, graph.types)
        raise GraphError(f"graph '{graph.name}' has no value '{source}'{hint}")
    axes = max(graph.types[source].rank - 2, 0)
    fields = {source: ReceptiveField((1,) * axes, (1,) * axes, (0,) * axes)}
    for node in graph.nodes:
        field = _through(graph, node, fields)
        if field is not None:
            fields[node.outputs[0]] = field
    return fields


def _through(graph: Graph, node: Node, fields: dict[str, ReceptiveField]) -> ReceptiveField | None:
    """The field of a node's result, if it has one."""
    known = [fields[name] for name in node.inputs if name in fields]
    if not known:
        return None
    channels = isinstance(node.op, Concat) and node.op.axis == 1
    if channels or isinstance(node.op, Unary | Broadcasting | Bias | TiledBias):
        return _united(known)
    windows = _windows(node.op, [graph.types[name] for name in node.inputs])
    if windows is None or node.inputs[0] not in fields:
        return None
    field, (extents, strides, pads) = fields[node.inputs[0]], windows
    axes = zip(field.size, field.jump, field.start, extents, strides, pads, strict=True)
    grown = [(r + (k - 1) * j, j * s, a - lo * j) for r, j, a, k, s, (lo, _) in axes]
    size, jump, start = zip(*grown, strict=True)
    return ReceptiveField(size, jump, start)


def _united(fields: list[ReceptiveField]) -> ReceptiveField | None:
    """What operands of equal cells read together; None where their cells are not in step."""
    first, *others = fields
    if any(field.jump != first.jump for field in others):
        return None
    starts = [min(axis) for axis in zip(*(f.start for f in fields), strict=True)]
    ends = [map(sum, zip(f.start, f.size, strict=True)) for f in fields]
    stops = [max(axis) for axis in zip(*ends, strict=True)]
    size = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
    return ReceptiveField(size, first.jump, tuple(starts))


def _windows(
    op: Op, types: list[TensorType]
) -> tuple[tuple[int, ...], tuple[int, ...], Pads] | None:
    """How far the windows of an op reach, their strides and pads; None if it has none."""
    if isinstance(op, PoolAttributes) and op.operands == ("x",):
        return op.extents, op.stride, op.pads
    if isinstance(op, Slice):
        starts = [start for start in op.starts[2:] if isinstance(start, int)]
        if len(starts) < len(op.starts) - 2:
            return None
        return (1,) * len(starts), op.steps[2:], tuple((-start, 0) for start in starts)
    if not isinstance(op, ConvGeometry) or isinstance(op, ConvInputGrad | ConvWeightGrad):
        return None
    axes = len(op.stride)
    first = 2 if isinstance(op, Conv | TiledConv) else types[1].rank - axes
    kernel = types[1].static_shape[first : first + axes]
    extents = tuple((k - 1) * d + 1 for k, d in zip(kernel, op.dilation, strict=True))
    return extents, op.stride, op.pads
