"""Graphs of one node, made from the examples of the ops, and the data to run them on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import ir
from convc.algorithms import Algorithm, Site
from convc.backend.target import Target, target_named
from convc.lowering import Lowering
from convc.program import Program
from convc.select import candidates, choices
from ir.ops.composite import Composite
from ir.types import Array

FLOATS = {"float32": "f32", "float64": "f64"}


def examples() -> Iterator[tuple[str, ir.Example]]:
    """Every example of every op that algorithms compute, with a name."""
    for op in ir.OPS:
        if not issubclass(op, Composite):
            yield from ((f"{op.name}: {example.name}", example) for example in op.examples())


def graph_of(example: ir.Example, dtype: str = "float32") -> ir.Graph:
    """The example as a graph with inputs ``in0``, ``in1``, … and one node, the output ``y``."""
    b = ir.Builder("one")
    values = [b.input(f"in{i}", type) for i, type in enumerate(example.inputs)]
    b.output("y", b.apply(example.op, *values, name="y"))
    return b.build().with_dtype(FLOATS[dtype])


def with_constants(graph: ir.Graph, arrays: Mapping[str, Array]) -> ir.Graph:
    """The graph with all inputs but the first turned into weights."""
    first, *rest = graph.inputs
    weights = {name: arrays[name] for name in rest}
    return graph.replace(inputs={first: graph.inputs[first]}, weights=weights)


def named(arrays: Sequence[Array]) -> dict[str, Array]:
    """The arrays by the names of the inputs of ``graph_of``."""
    return {f"in{i}": array for i, array in enumerate(arrays)}


def data(
    example: ir.Example, dtype: str = "float32", integers: bool = False, seed: int = 0
) -> dict[str, Array]:
    """Inputs for ``graph_of``."""
    return named(example.arrays(np.random.default_rng(seed), dtype, integers))


def applicable(graph: ir.Graph, target: str | None = None) -> list[str]:
    """The names of the algorithms that can compute the only node of a graph."""
    site = Site.of(graph, graph.nodes[0], target_named(target))
    return [c.algorithm.name for c in candidates(site) if c.reason is None]


def select(
    graph: ir.Graph, target: Target, accuracy: str = "fast", **how: Any
) -> dict[str, Algorithm]:
    """The algorithm chosen for each node, by node name."""
    made = choices(graph, target, accuracy, **how)
    return {choice.node.name: choice.chosen.algorithm for choice in made}


def program_of(graph: ir.Graph, target: str | None = None, algorithm: str | None = None) -> Program:
    """What a static graph is lowered to, without any pass and without machine code.

    ``algorithm`` is forced on every node.
    """
    machine = target_named(target)
    forced = {node.name: algorithm for node in graph.nodes} if algorithm else {}
    return Lowering(graph, select(graph, machine, forced=forced), machine).program()
