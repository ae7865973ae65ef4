"""Composite ops replaced by the graphs that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from ir.builder import Builder, Value
from ir.errors import Error, ShapeError
from ir.graph import Graph, Node
from ir.ops.composite import Composite
from ir.rewrite import dead_code, substitute
from ir.types import Array, TensorType


def expand(graph: Graph) -> Graph:
    """`graph` without composite ops; their parts are called `<node>.<part>`.

    Raises ShapeError where the extents of a composite op's operands are symbolic: bind them first.
    """
    written: dict[str, list[Node]] = {}
    renamed: dict[str, str] = {}
    weights: dict[str, Array] = {}
    taken = set(graph.types)
    for node in graph.nodes:
        if isinstance(node.op, Composite):
            try:
                inner = node.op.expansion([graph.types[name] for name in node.inputs])
            except Error as error:
                raise error.within(str(node)) from error
            names = _names(node, inner, taken)
            written[node.name] = [_renamed(part, names) for part in inner.nodes]
            weights |= {names[name]: array for name, array in inner.weights.items()}
            made = zip(node.outputs, inner.outputs.values(), strict=True)
            renamed |= {value: names[name] for value, name in made if names[name] != value}
    if not written:
        return graph
    return dead_code(substitute(graph, written, renamed, weights))


@lru_cache(maxsize=1024)
def expansion(op: Composite, types: tuple[TensorType, ...]) -> Graph:
    """A composite op on operands of static types, as a graph of ops that are not composite.

    Its inputs are called as the operands are, its outputs y0, y1, …
    """
    if not all(type.is_static for type in types):
        listed = ", ".join(map(str, types))
        raise ShapeError(f"{op.name}: its parts depend on the extents of ({listed}); bind them")
    return expand(parts(op, types))


def parts(op: Composite, types: tuple[TensorType, ...]) -> Graph:
    """What a composite op emits, composite ops among it, as a graph like that of `expansion`.

    ShapeError where that depends on a symbolic extent.
    """
    results = op.result_types(types)
    b = Builder(op.name)
    operands = [b.input(n, type) for n, type in zip(op.operand_names(), types, strict=True)]
    for number, value in enumerate(op.expand(b, operands)):
        assert value.type == results[number], (op, value.type, results[number])
        b.output(f"y{number}", value)
    return dead_code(b.build())


def inline(b: Builder, graph: Graph, operands: Sequence[Value]) -> tuple[Value, ...]:
    """The outputs of `graph` for its inputs, emitted into a builder."""
    values = dict(zip(graph.inputs, operands, strict=True))
    for name, array in graph.weights.items():
        values[name] = b.weight(b.fresh(name), array)
    for node in graph.nodes:
        results = b.emit(node.op, [values[name] for name in node.inputs])
        values |= dict(zip(node.outputs, results, strict=True))
    return tuple(values[name] for name in graph.outputs.values())


def _names(node: Node, inner: Graph, taken: set[str]) -> dict[str, str]:
    """What the values of an expansion are called in the graph that holds the node."""
    names = dict(zip(inner.inputs, node.inputs, strict=True))
    for value, result in zip(node.outputs, inner.outputs.values(), strict=True):
        if inner.producer(result) is not None:
            names.setdefault(result, value)
    for name in inner.types:
        if name not in names:
            names[name] = _fresh(f"{node.name}.{name}", taken)
    return names


def _fresh(stem: str, taken: set[str]) -> str:
    name, count = stem, 0
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


def _renamed(part: Node, names: dict[str, str]) -> Node:
    inputs, outputs = (tuple(names[n] for n in group) for group in (part.inputs, part.outputs))
    return replace(part, inputs=inputs, outputs=outputs)
