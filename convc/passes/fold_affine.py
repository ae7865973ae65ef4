"""Fold what scales and shifts channels, such as batch normalisation, into weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import ir
from convc.passes.changes import Changes, Vector, alone, by_channel, multiplied, rounded
from ir.ops import Add, Bias, Conv, ConvInputGrad, Dense, Div, Mul, Scale, Shift, Sub
from ir.types import Array

ROOTS: dict[type[ir.Op], int] = {Conv: 1, ConvInputGrad: 0, Dense: 1}
"""Ops that are linear in an operand, with the number of their weights among the operands."""
AFFINE = frozenset((Add, Bias, Div, Mul, Scale, Shift, Sub))
SHORT = 2  # a chain that follows no root is worth a scale and a shift


def fold_affine(graph: ir.Graph) -> ir.Graph:
    """Chains of additions and multiplications by constants per channel: into the weights and one
    bias where they follow a convolution or a product, into a scale and a bias elsewhere."""
    changes = Changes(graph)
    for node in graph.nodes:
        if not changes.touched(node) and _root(graph, node):
            chain = _chain(graph, node.outputs[0])
            if chain.nodes:
                _into_weights(changes, node, chain)
    for value in (*graph.inputs, *(node.outputs[0] for node in graph.nodes)):
        for reader in graph.consumers(value):
            if type(reader.op) in AFFINE and not changes.touched(reader):
                chain = _chain(graph, value, reader)
                if len(chain.nodes) > SHORT and not changes.touched(*chain.nodes):
                    _into_two(changes, value, chain)
    return changes.applied()


@dataclass
class Chain:
    """Nodes, each of which alone reads the one before, that compute scale · x + shift."""

    nodes: list[ir.Node]
    scale: Vector
    shift: Vector

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())


def _chain(graph: ir.Graph, value: str, first: ir.Node | None = None) -> Chain:
    """The chain that starts at a value: with its only reader, or with the reader given."""
    type = graph.types[value]
    channels = type.static_shape[1] if type.rank > 1 else 0
    chain = Chain([], np.ones(channels), np.zeros(channels))
    reader = alone(graph, value) if first is None else first
    with np.errstate(all="ignore"):
        while reader is not None and _extend(graph, chain, reader, value, type):
            chain.nodes.append(reader)
            value = reader.outputs[0]
            reader = alone(graph, value)
    return chain


def _extend(graph: ir.Graph, chain: Chain, node: ir.Node, value: str, type: ir.TensorType) -> bool:
    """Follow a node with scale and shift, if it is affine."""
    op, scale, shift = node.op, chain.scale, chain.shift
    if op.__class__ not in AFFINE:
        return False
    if type.rank < 2 or graph.types[node.outputs[0]] != type or node.inputs.count(value) != 1:
        return False
    if isinstance(op, Scale):
        chain.scale, chain.shift = scale * op.factor, shift * op.factor
        return True
    if isinstance(op, Shift):
        chain.shift = shift + op.term
        return True
    at = node.inputs.index(value)
    number = _constant(graph, node, at, type)
    if number is None or (at == 1 and isinstance(op, Div | Bias)):
        return False
    if isinstance(op, Add | Bias):
        chain.shift = shift + number
    elif isinstance(op, Sub):
        chain.scale, chain.shift = (scale, shift - number) if at == 0 else (-scale, number - shift)
    else:
        factor = number if isinstance(op, Mul) else 1 / number
        chain.scale, chain.shift = scale * factor, shift * factor
    return True


def _constant(graph: ir.Graph, node: ir.Node, at: int, type: ir.TensorType) -> Vector | None:
    """The other operand, one number per channel, if it is a weight."""
    other = node.inputs[1 - at]
    if isinstance(node.op, Bias):
        array = graph.weights.get(other)
        return None if array is None else array.astype(np.float64)
    return by_channel(graph, other, type)


def _root(graph: ir.Graph, node: ir.Node) -> bool:
    return type(node.op) in ROOTS and node.inputs[ROOTS[type(node.op)]] in graph.weights


def _into_weights(changes: Changes, root: ir.Node, chain: Chain) -> None:
    """The root with scaled weights, and a bias, where that is less than there was."""
    if [type(node.op) for node in chain.nodes] == [Bias] or not chain.finite:
        return
    graph, at = changes.graph, ROOTS[type(root.op)]
    name, last = root.inputs[at], chain.nodes[-1].outputs[0]
    old = graph.weights[name]
    array = _scaled(root.op, old, chain.scale) if np.any(chain.scale != 1) else old
    shift = rounded(chain.shift, old)
    if array is None or shift is None:
        return
    if array is not old:
        name = changes.weight(f"{root.name}.scaled", array)
    inputs = tuple(name if number == at else value for number, value in enumerate(root.inputs))
    if not shift.any():
        changes.replace([root, *chain.nodes], [ir.Node(root.op, inputs, (last,))])
        return
    bias = changes.weight(f"{last}.shift", shift)
    parts = [ir.Node(root.op, inputs, root.outputs),
             ir.Node(Bias(), (root.outputs[0], bias), (last,))]  # fmt: skip
    changes.replace([root, *chain.nodes], parts)


def _scaled(op: ir.Op, w: Array, scale: Vector) -> Array | None:
    """The weights times the scale of the channel that they contribute to."""
    if isinstance(op, ConvInputGrad):  # channels of the result are those within a group
        groups = w.reshape(op.groups, w.shape[0] // op.groups, *w.shape[1:])
        each = scale.reshape(op.groups, 1, w.shape[1], *(1,) * (w.ndim - 2))
        product = multiplied(groups, each, w)
        return None if product is None else product.reshape(w.shape)
    first = isinstance(op, Conv) or (isinstance(op, Dense) and op.transpose_w)
    column = scale.reshape(-1, *(1,) * (w.ndim - 1)) if first else scale
    return multiplied(w, column, w)


def _into_two(changes: Changes, value: str, chain: Chain) -> None:
    """A multiplication, and an addition."""
    like = np.empty(0, changes.graph.types[value].dtype.numpy)
    scale, shift = rounded(chain.scale, like), rounded(chain.shift, like)
    if scale is None or shift is None:
        return
    first, last = chain.nodes[0].outputs[0], chain.nodes[-1].outputs[0]
    column = scale.reshape(-1, *(1,) * (changes.graph.types[value].rank - 2))
    parts = [ir.Node(Mul(), (value, changes.weight(f"{last}.scale", column)), (first,)),
             ir.Node(Bias(), (first, changes.weight(f"{last}.shift", shift)), (last,))]  # fmt: skip
    changes.replace(chain.nodes, parts)
