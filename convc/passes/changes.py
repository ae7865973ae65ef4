"""What the passes share: looking around in a graph, and collecting changes to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

import ir
from ir.ops import Bias
from ir.rewrite import dead_code, substitute
from ir.types import Array

Vector = npt.NDArray[np.float64]
IN_CACHE = 1 << 16  # numbers that are looked at again while they are near


def alone(graph: ir.Graph, value: str) -> ir.Node | None:
    """The node that alone reads a value, and only once; None for an output of the graph."""
    readers = graph.consumers(value)
    if len(readers) != 1 or readers[0].inputs.count(value) != 1:
        return None
    return None if value in graph.outputs.values() else readers[0]


def by_channel(graph: ir.Graph, name: str, y: ir.TensorType) -> Vector | None:
    """A weight that varies along axis 1 of y at most, as [C]; None for anything else."""
    array = graph.weights.get(name)
    if array is None or y.rank < 2 or array.ndim > y.rank or not y.dtype.is_float:
        return None
    full = array.reshape((1,) * (y.rank - array.ndim) + array.shape)
    channels = y.static_shape[1]
    if any(n != 1 for axis, n in enumerate(full.shape) if axis != 1) or full.size == 0:
        return None
    return np.broadcast_to(full.reshape(-1), (channels,)).astype(np.float64)


def constant_bias(graph: ir.Graph, node: ir.Node | None, x: str) -> Vector | None:
    """What a node adds to the channels of x, if it is a bias that is a weight."""
    if node is None or not isinstance(node.op, Bias) or node.inputs[0] != x:
        return None
    array = graph.weights.get(node.inputs[1])
    return None if array is None else array.astype(np.float64)


def rounded(array: npt.NDArray[np.float64], like: Array) -> Array | None:
    """Numbers in the element type of ``like``; None where one overflows, or is lost to zero."""
    return multiplied(array, np.ones((), like.dtype), like)


def multiplied(array: Array, factors: Array, like: Array) -> Array | None:
    """Products in the element type of ``like``, rounded once; None where one overflows, or is
    lost to zero."""
    result = np.empty(np.broadcast_shapes(array.shape, factors.shape), like.dtype)
    array, factors = np.broadcast_to(array, result.shape), np.broadcast_to(factors, result.shape)
    rows = max(1, IN_CACHE * len(result) // max(1, result.size))
    for start in range(0, len(result), rows):
        part = slice(start, start + rows)
        if not _multiply(array[part], factors[part], result[part]):
            return None
    return result


def _multiply(array: Array, factors: Array, result: Array) -> bool:
    """Whether the products neither overflow nor are lost to zero."""
    with np.errstate(all="ignore"):
        np.multiply(array, factors, out=result, dtype=np.float64, casting="same_kind")
        size = np.abs(result)
        lost = size < np.finfo(result.dtype).tiny
        if lost.any():
            lost &= (array != 0) & (factors != 0)
    return bool(np.isfinite(size.max(initial=0)) and not lost.any())


class Changes:
    """Nodes of a graph that are to be replaced, and weights that are new."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.nodes: dict[str, Sequence[ir.Node]] = {}
        self.weights: dict[str, Array] = {}
        self.names = set(graph.types)

    def fresh(self, stem: str) -> str:
        """A name that no value has."""
        name, count = stem, 0
        while name in self.names:
            count += 1
            name = f"{stem}_{count}"
        self.names.add(name)
        return name

    def weight(self, stem: str, array: Array) -> str:
        """A new weight; its name."""
        name = self.fresh(stem)
        array.flags.writeable = False
        self.weights[name] = array
        return name

    def replace(
        self, old: Sequence[ir.Node], new: Sequence[ir.Node], at: ir.Node | None = None
    ) -> None:
        """Put new nodes in the place of one of the old ones, by default of the last."""
        self.nodes |= {node.name: () for node in old}
        self.nodes[(at or old[-1]).name] = new

    def touched(self, *nodes: ir.Node) -> bool:
        """Whether one of the nodes is to be replaced already."""
        return any(node.name in self.nodes for node in nodes)

    def applied(self) -> ir.Graph:
        """The graph with the changes, without what nobody needs any more."""
        if not self.nodes:
            return self.graph
        return dead_code(substitute(self.graph, self.nodes, weights=self.weights))
