"""Reverse-mode differentiation: a gradient is a graph like any other."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np

from ir.builder import Builder, Value
from ir.errors import Error, GradientError, GraphError, did_you_mean
from ir.graph import Graph, Node
from ir.ops.shape import Expand
from ir.rewrite import dead_code
from ir.types import TensorType, described


def vjp(graph: Graph, wrt: Sequence[str] | None = None, prefix: str = "grad_") -> Graph:
    """The graph that also computes vector-Jacobian products.

    Its inputs are those of `graph` and `grad_<output>` for each float output; its outputs are
    those of `graph` and `grad_<name>` for each input or weight in `wrt` (default: all that are
    float): the gradient of Σ ⟨grad_<output>, output⟩. Uses of one value add up; a name that no
    output depends on has a zero gradient. Second derivatives need another `prefix` than `grad_`:
    `vjp(vjp(graph), prefix="second_")`; the product of the Hessian and a vector v is `second_x` for
    `grad_loss` = 1, `second_grad_x` = v and all other `second_` inputs 0.
    Raises GradientError for names that are not float inputs or weights, and where an op provides no
    derivative, or one of another type than the operand; GraphError when a name with the prefix is
    taken.
    """
    if wrt is None:
        wrt = [n for n in (*graph.inputs, *graph.weights) if graph.types[n].dtype.is_float]
    _check(graph, wrt)
    _check_free(graph, wrt, prefix)
    b = Builder.of(graph)
    needed = _dependents(graph, wrt)
    parts: dict[str, list[Value]] = {}
    for public, value in graph.outputs.items():
        if graph.types[value].dtype.is_float:
            upstream = b.input(f"{prefix}{public}", graph.types[value])
            parts.setdefault(value, []).append(upstream)
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs) and any(name in parts for name in node.outputs):
            _differentiate(b, node, needed, parts)
    for name in wrt:
        b.output(f"{prefix}{name}", _total(b, graph.types[name], parts.get(name, [])))
    return dead_code(b.build())


def _check(graph: Graph, wrt: Sequence[str]) -> None:
    if isinstance(wrt, str):
        raise GradientError(f"wrt is a list of names; write ['{wrt}']")
    known = [*graph.inputs, *graph.weights]
    for name in wrt:
        if name not in known:
            hint = did_you_mean(name, known) if isinstance(name, str) else ""
            floats = ", ".join(n for n in known if graph.types[n].dtype.is_float) or "none"
            hint = hint or f"; there are {textwrap.shorten(floats, 400, placeholder='...')}"
            given = f"{described(name)} is not an input or weight of '{graph.name}'"
            raise GradientError(f"{given}{hint}")
        if not graph.types[name].dtype.is_float:
            raise GradientError(f"'{name}' is {graph.types[name]}; integers have no gradient")


def _check_free(graph: Graph, wrt: Sequence[str], prefix: str) -> None:
    """GraphError where a name of the result is taken: most often on differentiating twice."""
    if not isinstance(prefix, str):
        raise GraphError(f"prefix = {described(prefix)} must be a string")
    floats = [name for name, v in graph.outputs.items() if graph.types[v].dtype.is_float]
    inputs = [f"{prefix}{name}" for name in floats if f"{prefix}{name}" in graph.types]
    outputs = [f"{prefix}{name}" for name in wrt if f"{prefix}{name}" in graph.outputs]
    for taken in (*inputs, *outputs):
        kind = "a value" if taken in inputs else "an output"
        hint = 'give other names, as in vjp(graph, prefix="second_")'
        raise GraphError(f"'{taken}' is {kind} of '{graph.name}' already; to differentiate it "
                         f"again, {hint}")  # fmt: skip


def _dependents(graph: Graph, wrt: Sequence[str]) -> set[str]:
    """The float values on a path from `wrt`; only these need gradients."""
    found = set(wrt)
    for node in graph.nodes:
        if found.intersection(node.inputs):
            found.update(name for name in node.outputs if graph.types[name].dtype.is_float)
    return found


def _differentiate(b: Builder, node: Node, needed: set[str], parts: dict[str, list[Value]]) -> None:
    """Add what one node contributes to the gradients of its inputs."""
    inputs = [b.value(name) for name in node.inputs]
    outputs = [b.value(name) for name in node.outputs]
    upstream = [_total(b, value.type, parts.get(value.name, [])) for value in outputs]
    try:
        grads = node.op.grad(b, inputs, outputs, upstream)
    except Error as error:
        raise error.within(f"gradient of {node}") from error
    for number, (value, grad) in enumerate(_paired(node, inputs, grads)):
        if grad is None or value.name not in needed:
            continue
        given = f"{node}: the gradient in operand {number}, '{value.name}', is"
        if not isinstance(grad, Value):
            raise GradientError(f"{given} {described(grad)}; it must be a value or None")
        if grad.type != value.type:
            raise GradientError(f"{given} {grad.type}; it must be {value.type} like the operand")
        parts.setdefault(value.name, []).append(grad)


def _paired(node: Node, inputs: Sequence[Value], grads: object) -> list[tuple[Value, object]]:
    """Operands with what `grad` of the op gave for each; GradientError where that is not one."""
    if not isinstance(grads, tuple | list) or len(grads) != len(inputs):
        gave = f"gives {described(grads)}"
        if isinstance(grads, tuple | list):
            gave = f"gives a tuple of {len(grads)}"
        names = ", ".join(f"'{value.name}'" for value in inputs) or "none"
        wanted = f"{len(inputs)} gradients, one or None for each operand ({names})"
        raise GradientError(f"{node}: its grad {gave}; it must give a tuple of {wanted}")
    return list(zip(inputs, grads, strict=True))


def _total(b: Builder, type: TensorType, parts: list[Value]) -> Value:
    """The sum of the parts; without any, zeros that depend on no data, so no NaN gets in."""
    if not parts:
        zero = b.weight(b.fresh("zero"), np.zeros((), type.dtype.numpy))
        return b.apply(Expand(type.shape), zero)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
