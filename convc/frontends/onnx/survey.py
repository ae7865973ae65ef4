"""What a model holds, found out before it is imported: unknown operators, functions in circles."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, TypeAlias

from convc.errors import LoadError
from convc.frontends.onnx.control import CONTROL
from convc.frontends.onnx.fold import FOLDS
from convc.frontends.onnx.names import STANDARD
from convc.frontends.onnx.operators import OPERATORS
from convc.frontends.onnx.operators.own import OWN_FUNCTIONS

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto, NodeProto

Functions: TypeAlias = "dict[tuple[str, str], FunctionProto]"


def functions_of(model: ModelProto) -> Functions:
    """The functions of a model by domain and name, without those that are read as ops; LoadError
    where one calls itself."""
    protos = (f for f in model.functions if f"{f.domain}.{f.name}" not in OWN_FUNCTIONS)
    functions = {(f.domain, f.name): f for f in protos}
    called = {
        key: {(node.domain, node.op_type) for node in nodes_in(function)} & functions.keys()
        for key, function in functions.items()
    }
    try:
        TopologicalSorter(called).prepare()
    except CycleError as error:
        circle = " -> ".join(name for _, name in error.args[1])
        raise LoadError(f"functions call each other in a circle: {circle:.300}") from error
    return functions


def nodes_in(*holders: Any) -> Iterator[NodeProto]:
    """The nodes of graphs and functions, and of the graphs within them."""
    waiting = list(holders)
    while waiting:
        for node in waiting.pop().node:
            yield node
            for proto in node.attribute:
                waiting += [proto.g] if proto.HasField("g") else proto.graphs


def unknown_operators(model: ModelProto) -> list[str]:
    """The operators in a model, its functions and the graphs within nodes that have no meaning."""
    functions = {(f.domain, f.name) for f in model.functions}
    unknown: dict[str, None] = {}
    for node in nodes_in(model.graph, *model.functions):
        kind = kind_of(node)
        if not is_known(kind) and (node.domain, node.op_type) not in functions:
            unknown[kind] = None
    return list(unknown)


def kind_of(node: NodeProto) -> str:
    """The operator, with its domain where that is not ONNX's own."""
    return node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"


def is_known(kind: str) -> bool:
    """Whether an operator, of some operands at least, can be imported."""
    return kind in OPERATORS or kind in FOLDS or kind in CONTROL
