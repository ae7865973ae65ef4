"""Two convolutions without anything but a bias between them are one; it may be cheaper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

import ir
from convc.passes.changes import Changes, Vector, alone, constant_bias, rounded
from ir.ops import Bias, Conv
from ir.types import Array


def compose_convolutions(graph: ir.Graph) -> ir.Graph:
    """A convolution by known weights before or after a 1x1 one as a single one, where that takes
    fewer multiplications."""
    changes = Changes(graph)
    for node in graph.nodes:
        if isinstance(node.op, Conv) and not changes.touched(node):
            _compose(changes, node)
    return compose_convolutions(changes.applied()) if changes.nodes else graph


def _compose(changes: Changes, first: ir.Node) -> None:
    graph, value = changes.graph, first.outputs[0]
    between = alone(graph, value)
    bias = constant_bias(graph, between, value)
    nodes = [first]
    if bias is not None and between is not None:
        nodes.append(between)
        value = between.outputs[0]
    second = alone(graph, value)
    if second is None or second.inputs[0] != value or changes.touched(*nodes, second):
        return
    op = _composed(graph, first, second, bias)
    kernel = None if op is None else _kernel(graph, first, second)
    if op is None or kernel is None or not _cheaper(graph, first, second, kernel.shape):
        return
    nodes.append(second)
    last = second.outputs[0]
    parts = [ir.Node(op, (first.inputs[0], changes.weight(f"{last}.composed", kernel)), (last,))]
    if bias is not None:
        added = _passed_on(graph, second, bias)
        if added is None:
            return
        shift = changes.weight(f"{last}.shift", added)
        parts = [replace(parts[0], outputs=first.outputs),
                 ir.Node(Bias(), (first.outputs[0], shift), (last,))]  # fmt: skip
    changes.replace(nodes, parts)


def _composed(graph: ir.Graph, first: ir.Node, second: ir.Node, bias: Vector | None) -> Conv | None:
    """The op of both, if one of them reads single pixels.

    Where the first one does, pads of the second are zeros that the first would have made of zeros:
    a bias between them would not come to there.
    """
    one, two = first.op, second.op
    if not isinstance(one, Conv) or not isinstance(two, Conv) or one.groups * two.groups != 1:
        return None
    if any(node.inputs[1] not in graph.weights for node in (first, second)):
        return None
    if _pointwise(graph, second):
        steps = zip(one.stride, two.stride, strict=True)
        return replace(one, stride=tuple(a * b for a, b in steps))
    bare = bias is None or not any(map(any, two.pads))
    if _pointwise(graph, first) and all(step == 1 for step in one.stride) and bare:
        return two
    return None


def _pointwise(graph: ir.Graph, node: ir.Node) -> bool:
    """Whether every window is one pixel, and no pads are added."""
    assert isinstance(node.op, Conv)
    cells = graph.types[node.inputs[1]].static_shape[2:]
    return all(k == 1 for k in cells) and not any(map(any, node.op.pads))


def _kernel(graph: ir.Graph, first: ir.Node, second: ir.Node) -> Array | None:
    """The kernel of both: a product of matrices for every cell of the larger one."""
    inner, outer = (graph.weights.get(node.inputs[1]) for node in (first, second))
    if inner is None or outer is None or inner.shape[0] != outer.shape[1]:
        return None
    cells = tuple(max(a, b) for a, b in zip(inner.shape[2:], outer.shape[2:], strict=True))
    a, b = (
        np.moveaxis(w.reshape(*w.shape[:2], -1).astype(np.float64), 2, 0) for w in (outer, inner)
    )
    product = np.moveaxis(a @ b, 0, 2)  # one of them has a single matrix, for all cells
    return rounded(product.reshape(outer.shape[0], inner.shape[1], *cells), inner)


def _matrices(w: Array) -> npt.NDArray[np.float64]:
    """A kernel [K, C, *k] as a matrix [K, C] for each of its cells."""
    return np.moveaxis(w.reshape(*w.shape[:2], -1).astype(np.float64), 2, 0)


def _cheaper(graph: ir.Graph, first: ir.Node, second: ir.Node, kernel: tuple[int, ...]) -> bool:
    """Whether it takes fewer multiplications."""

    def products(node: ir.Node) -> int:
        return node.op.cost(*(graph.types[name] for name in node.inputs)).flops

    y = graph.types[second.outputs[0]].static_shape
    cells = int(np.prod(y[2:], dtype=np.int64)) * y[0]
    return 2 * cells * int(np.prod(kernel)) < products(first) + products(second)


def _passed_on(graph: ir.Graph, second: ir.Node, bias: Vector) -> Array | None:
    """What the second convolution makes of a bias before it."""
    w = graph.weights[second.inputs[1]]
    matrix = w.astype(np.float64).reshape(*w.shape[:2], -1).sum(2)
    return rounded(matrix @ bias, w)
