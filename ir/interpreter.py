"""The reference: a graph evaluated node by node in numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ir.errors import InputError, ShapeError
from ir.graph import Graph, Node
from ir.inputs import check_inputs
from ir.types import Array, DType, TensorType


def interpret(
    graph: Graph, inputs: Mapping[str, Array], dtype: DType | str | None = None
) -> dict[str, Array]:
    """The outputs of `graph`, by public name, for `inputs` by name.

    With `dtype` ("float64"), float inputs, weights and results are all of that element type.
    Raises InputError when the inputs do not match the graph, or a value is refused by an op.
    """
    computed = values(graph, inputs, dtype)
    return {public: computed[value] for public, value in graph.outputs.items()}


def values(
    graph: Graph, inputs: Mapping[str, Array], dtype: DType | str | None = None
) -> dict[str, Array]:
    """Every value of `graph` by its own name: inputs, weights and all results."""
    env = check_inputs(graph, inputs, any_float=dtype is not None)
    bound = graph.bind(env) if env else graph
    if dtype is not None:
        bound = bound.with_dtype(dtype)
    computed: dict[str, Array] = {
        name: np.asarray(inputs[name]).astype(type.dtype.numpy, copy=False)
        for name, type in bound.inputs.items()
    }
    computed.update(bound.weights)
    with np.errstate(all="ignore"):
        for node in bound.nodes:
            results = _evaluate(node, computed)
            for name, array in zip(node.outputs, results, strict=True):
                _check_result(node, name, bound.types[name], array)
                computed[name] = array
    return computed


def _evaluate(node: Node, computed: Mapping[str, Array]) -> tuple[Array, ...]:
    try:
        return node.op.evaluate(*(computed[name] for name in node.inputs))
    except InputError as error:
        raise error.within(str(node)) from error


def _check_result(node: Node, name: str, declared: TensorType, array: Array) -> None:
    """`infer` and `evaluate` of an op must agree; a mismatch is an error in the op."""
    if TensorType.of(array) != declared:
        given = f"evaluates to {TensorType.of(array)}"
        raise ShapeError(f"{node}: '{name}' was inferred as {declared} but {given}")
