"""Canonical forms: what does nothing goes, what can be said more simply is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

import ir
from convc.passes.changes import by_channel
from ir.ops import (
    Add,
    Bias,
    Concat,
    Constant,
    Div,
    Expand,
    Identity,
    Mul,
    Pad,
    Reshape,
    Reverse,
    Scale,
    Shift,
    Slice,
    StopGradient,
    Sub,
    Sum,
    Transpose,
)
from ir.types import Array


def simplify(graph: ir.Graph) -> ir.Graph:
    """Shapes are changed at most once in a row; nothing is moved, scaled by 1 or added 0 to.

    Constants take their simplest form: numbers in attributes, biases of channels. Zeros may
    change their sign.
    """
    draft = _Draft(graph)
    for node in graph.nodes:
        inputs = tuple(draft.renamed.get(name, name) for name in node.inputs)
        draft.take(node if inputs == node.inputs else replace(node, inputs=inputs))
    return draft.finished()


@dataclass
class _Draft:
    """The graph in the making. Values keep their types, whatever computes them."""

    graph: ir.Graph
    nodes: dict[str, ir.Node] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)

    def take(self, node: ir.Node) -> None:
        """Add a node in its simplest form."""
        while rule := RULES.get(type(node.op)):
            found = rule(self, node)
            if found is None:
                break
            if isinstance(found, str):
                self.renamed[node.name] = found
                return
            node = found
        self.nodes[node.name] = node

    def type(self, value: str) -> ir.TensorType:
        return self.graph.types[value]

    def constant(self, value: str) -> Array | None:
        node = self.nodes.get(value)
        if node is not None and isinstance(node.op, Constant):
            return node.op.evaluate()[0]
        return self.graph.weights.get(value)

    def weight(self, stem: str, array: Array) -> str:
        name = stem
        while name in self.graph.types or name in self.weights:
            name += "_"
        array.flags.writeable = False
        self.weights[name] = array
        return name

    def finished(self) -> ir.Graph:
        graph = self.graph
        if tuple(self.nodes.values()) == graph.nodes:
            return graph
        outputs = {name: self.renamed.get(value, value) for name, value in graph.outputs.items()}
        weights = {**graph.weights, **self.weights}
        nodes = tuple(self.nodes.values())
        return ir.dead_code(graph.replace(weights=weights, nodes=nodes, outputs=outputs))


Found = str | ir.Node | None
"""A value that is the same, a node that computes the same, or nothing better."""
Rule = Callable[[_Draft, ir.Node], Found]


def _nothing(draft: _Draft, node: ir.Node) -> Found:
    """Ops that leave every element where it is as soon as the shape stays."""
    same = draft.type(node.inputs[0]) == draft.type(node.name)
    return node.inputs[0] if same else None


def _reshape(draft: _Draft, node: ir.Node) -> Found:
    before = draft.nodes.get(node.inputs[0])
    if before is not None and isinstance(before.op, Reshape):
        return replace(node, inputs=before.inputs)
    return _nothing(draft, node)


def _transpose(draft: _Draft, node: ir.Node) -> Found:
    op, before = node.op, draft.nodes.get(node.inputs[0])
    assert isinstance(op, Transpose)
    if before is not None and isinstance(before.op, Transpose):
        perm = tuple(before.op.perm[axis] for axis in op.perm)
        return ir.Node(Transpose(perm), before.inputs, node.outputs)
    shape = draft.type(node.inputs[0]).shape
    longer = [axis for axis in op.perm if shape[axis] != 1]
    if longer == sorted(longer):  # no element moves
        return replace(node, op=Reshape(draft.type(node.name).shape))
    return None


def _sum(draft: _Draft, node: ir.Node) -> Found:
    assert isinstance(node.op, Sum)
    x = draft.type(node.inputs[0])
    if all(x.shape[axis] == 1 for axis in node.op.axes):
        return replace(node, op=Reshape(draft.type(node.name).shape))
    return None


def _slice(draft: _Draft, node: ir.Node) -> Found:
    assert isinstance(node.op, Slice)
    return _nothing(draft, node) if all(start == 0 for start in node.op.starts) else None


def _pad(draft: _Draft, node: ir.Node) -> Found:
    assert isinstance(node.op, Pad)
    none = not any(map(any, node.op.pads)) and not any(node.op.interior)
    return node.inputs[0] if none else None


def _concat(draft: _Draft, node: ir.Node) -> Found:
    kept = tuple(name for name in node.inputs if draft.type(name).size != 0)
    if len(kept) == len(node.inputs):
        return node.inputs[0] if len(kept) == 1 else None
    assert isinstance(node.op, Concat)
    return ir.Node(Concat(node.op.axis, len(kept)), kept, node.outputs) if kept else None


def _reverse(draft: _Draft, node: ir.Node) -> Found:
    assert isinstance(node.op, Reverse)
    x = draft.type(node.inputs[0])
    return node.inputs[0] if all(x.shape[axis] in (0, 1) for axis in node.op.axes) else None


def _scale(draft: _Draft, node: ir.Node) -> Found:
    assert isinstance(node.op, Scale)
    return node.inputs[0] if node.op.factor == 1 else None


def _shift(draft: _Draft, node: ir.Node) -> Found:
    assert isinstance(node.op, Shift)
    return node.inputs[0] if node.op.term == 0 else None


def _bias(draft: _Draft, node: ir.Node) -> Found:
    bias = draft.constant(node.inputs[1])
    return node.inputs[0] if bias is not None and not bias.any() else None


def _arithmetic(draft: _Draft, node: ir.Node) -> Found:
    """Operands that are constant: a single number, or one per channel."""
    for at in (0, 1) if isinstance(node.op, Add | Mul) else (1,):
        array, x = draft.constant(node.inputs[at]), node.inputs[1 - at]
        if array is None or draft.type(x) != draft.type(node.name):
            continue
        if array.size and np.all(array == array.flat[0]) and np.isfinite(array.flat[0]):
            return _by_number(node, x, float(array.flat[0]))
        vector = by_channel(draft.graph, node.inputs[at], draft.type(x))
        if vector is not None and isinstance(node.op, Add | Sub):
            sign = -1 if isinstance(node.op, Sub) else 1
            bias = draft.weight(f"{node.name}.bias", np.asarray(sign * vector, array.dtype))
            return ir.Node(Bias(), (x, bias), node.outputs)
    return None


def _by_number(node: ir.Node, x: str, number: float) -> Found:
    op: ir.Op
    if isinstance(node.op, Add | Sub):
        op = Shift(number if isinstance(node.op, Add) else -number)
    elif isinstance(node.op, Mul):
        op = Scale(number)
    elif number and np.frexp(number)[0] in (0.5, -0.5):  # a power of 2 has an exact reciprocal
        op = Scale(1 / number)
    else:
        return None
    return ir.Node(op, (x,), node.outputs)


RULES: dict[type[ir.Op], Rule] = {
    Identity: _nothing,
    StopGradient: _nothing,
    Expand: _nothing,
    Reshape: _reshape,
    Transpose: _transpose,
    Sum: _sum,
    Slice: _slice,
    Pad: _pad,
    Concat: _concat,
    Reverse: _reverse,
    Scale: _scale,
    Shift: _shift,
    Bias: _bias,
    Add: _arithmetic,
    Sub: _arithmetic,
    Mul: _arithmetic,
    Div: _arithmetic,
}
