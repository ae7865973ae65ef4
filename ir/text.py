"""The textual form of graphs: `to_text` prints it, `parse` reads it back to an equal graph.

    graph lenet {
      input %x: f32[N, 1, 28, 28]
      weight %conv1.weight: f32[20, 1, 5, 5]
      %conv = conv(%x, %conv1.weight) {stride = (1, 1), …} : f32[N, 20, 24, 24]
      return y = %conv
    }

Weights are declared; their data live elsewhere (see `ir.files`). Names that are not plain are in
quotes, as `%"input:0"` (see `ir.names`). Lines that start with `#` are comments. The types printed
after nodes are checked against what the ops infer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ir.errors import WeightsError, did_you_mean
from ir.graph import Graph, Node
from ir.names import quoted, written
from ir.op import Op
from ir.parser import Parser
from ir.types import Array, TensorType


def to_text(graph: Graph) -> str:
    """The textual form of `graph`, without the data of its weights."""
    lines = [f"graph {written(graph.name)} {{"]
    lines += [f"  input {_value(name)}: {type}" for name, type in graph.inputs.items()]
    lines += [f"  weight {_value(name)}: {graph.types[name]}" for name in graph.weights]
    lines += [f"  {_node(node, graph.types)}" for node in graph.nodes]
    pairs = graph.outputs.items()
    returned = ", ".join(f"{written(public)} = {_value(value)}" for public, value in pairs)
    return "\n".join([*lines, f"  return {returned}".rstrip(), "}", ""])


def op_text(op: Op) -> str:
    """An op and its attributes, e.g. `sum {axes = (0, 2)}`."""
    return f"{op.name} {{{_attributes(op)}}}"


def parse(text: str, weights: Mapping[str, Array] | None = None) -> Graph:
    """The graph written in `text`, with the declared weights taken from `weights`.

    Raises ParseError with a line and a column, WeightsError when the weights are not exactly the
    declared ones, and what `Graph` raises when the graph itself is wrong.
    """
    parser = Parser(text)
    parsed = parser.graph()
    given = {} if weights is None else weights
    check_weights(parsed.weights, given)
    chosen = {name: given[name] for name in parsed.weights}
    graph = Graph(parsed.name, parsed.inputs, chosen, tuple(parsed.nodes), parsed.outputs)
    for value, (declared, at) in parsed.declared.items():
        if graph.types[value] != declared:
            inferred = f"its op infers {graph.types[value]}"
            parser.fail(f"value '{value}' is written as {declared}, but {inferred}", at)
    return graph


def check_weights(declared: Mapping[str, TensorType], given: Mapping[str, Array]) -> None:
    """WeightsError unless `given` has exactly the declared names, shapes and element types."""
    if missing := [f"'{name}' ({type})" for name, type in declared.items() if name not in given]:
        raise WeightsError(f"missing weights {', '.join(missing)}; pass an array for each")
    for name, array in given.items():
        if name not in declared:
            hint = did_you_mean(name, declared)
            raise WeightsError(f"weight '{name}' is not declared in the graph{hint}")
        if TensorType.of(array) != declared[name]:
            found = f"but the array is {TensorType.of(array)}"
            raise WeightsError(f"weight '{name}' is declared as {declared[name]}, {found}")


def _node(node: Node, types: Mapping[str, TensorType]) -> str:
    outputs, operands = (", ".join(map(_value, names)) for names in (node.outputs, node.inputs))
    attributes = f" {{{_attributes(node.op)}}}" if fields(node.op) else ""
    results = ", ".join(str(types[name]) for name in node.outputs)
    return f"{outputs} = {node.op.name}({operands}){attributes} : {results}"


def _attributes(op: Op) -> str:
    return ", ".join(
        f"{field.name} = {_attribute(getattr(op, field.name))}" for field in fields(op)
    )


def _value(name: str) -> str:
    return f"%{written(name)}"


def _attribute(value: Any) -> str:
    if isinstance(value, tuple):
        items = ", ".join(map(_attribute, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, Op):
        return op_text(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    return repr(value)
