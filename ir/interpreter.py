"""The reference: a graph evaluated node by node in numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ir.errors import InputError, ShapeError
from ir.graph import Graph, Node
from ir.inputs import check_inputs
from ir.types import Array, DType, TensorType, described


def interpret(
    graph: Graph, inputs: Mapping[str, Array], dtype: DType | str | None = None
) -> dict[str, Array]:
    """The outputs of `graph`, by public name, for `inputs` by name.

    With `dtype` ("float64"), float inputs, weights and results are all of that element type.
    Values that no later node reads are dropped. Raises InputError when the inputs do not match the
    graph, or a value is refused by an op.
    """
    bound, computed = _given(graph, inputs, dtype)
    for _ in _evaluated(bound, computed):
        pass
    return {public: computed[value] for public, value in bound.outputs.items()}


def evaluations(
    graph: Graph, inputs: Mapping[str, Array], dtype: DType | str | None = None
) -> Iterator[tuple[Node, Mapping[str, Array]]]:
    """Each node in turn, when it has been evaluated, with the values that are alive then: its
    operands, its results, the outputs so far, and what later nodes read."""
    bound, computed = _given(graph, inputs, dtype)
    for node in _evaluated(bound, computed):
        yield node, computed


def values(
    graph: Graph, inputs: Mapping[str, Array], dtype: DType | str | None = None
) -> dict[str, Array]:
    """Every value of `graph` by its own name: inputs, weights and all results."""
    bound, computed = _given(graph, inputs, dtype)
    every = dict(computed)
    for node in _evaluated(bound, computed):
        every.update((name, computed[name]) for name in node.outputs)
    return every


def dead_after(graph: Graph, node: Node) -> list[str]:
    """The values that `node` is the last to read, or that nobody reads; outputs are not among
    them."""
    kept = graph.outputs.values()
    return [
        value
        for value in dict.fromkeys((*node.inputs, *node.outputs))
        if value not in kept and graph.consumers(value)[-1:] in ((), (node,))
    ]


def _given(
    graph: Graph, inputs: Mapping[str, Array], dtype: DType | str | None
) -> tuple[Graph, dict[str, Array]]:
    """The graph in the element type that is wanted, and its inputs and weights by name."""
    env = check_inputs(graph, inputs, any_float=dtype is not None)
    bound = graph.bind(env) if env else graph
    if dtype is not None:
        bound = bound.with_dtype(dtype)
    given: dict[str, Array] = {
        name: np.asarray(inputs[name]).astype(type.dtype.numpy, copy=False)
        for name, type in bound.inputs.items()
    }
    return bound, {**given, **bound.weights}


def _evaluated(graph: Graph, computed: dict[str, Array]) -> Iterator[Node]:
    """Each node when its results are in `computed`; what is dead after it leaves that."""
    for node in graph.nodes:
        with np.errstate(all="ignore"):
            results = _evaluate(node, computed)
        for name, array in zip(node.outputs, results, strict=True):
            _check_result(node, name, graph.types[name], array)
            computed[name] = array
        yield node
        for name in dead_after(graph, node):
            del computed[name]


def _evaluate(node: Node, computed: Mapping[str, Array]) -> tuple[Array, ...]:
    try:
        results: object = node.op.evaluate(*(computed[name] for name in node.inputs))
    except InputError as error:
        raise error.within(str(node)) from error
    if isinstance(results, tuple) and len(results) == len(node.outputs):
        return results
    hint = f"evaluate has to give a tuple of {len(node.outputs)}, an array for each result"
    raise ShapeError(f"{node}: evaluates to {described(results)}; {hint}")


def _check_result(node: Node, name: str, declared: TensorType, array: Array) -> None:
    """`infer` and `evaluate` of an op must agree; a mismatch is an error in the op."""
    if TensorType.of(array) != declared:
        given = f"evaluates to {TensorType.of(array)}"
        raise ShapeError(f"{node}: '{name}' was inferred as {declared} but {given}")
