"""A fixture as a graph.

A fixture states one op, or a small network of ops, on one example and in float64, with the outputs
it must give and often the gradients. `build` says the same with `ir.Builder`: every tensor of the
fixture becomes a graph input, and an activation gets a batch axis of one.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import ir
from tests.fixture_graphs import conv, pool
from tests.fixture_graphs.rules import Array, Attrs, Fixture, Stand

RULES = conv.RULES | pool.RULES


class Case(NamedTuple):
    """A graph, the arrays to run it on, and what must come out.

    `upstream` has one array per output (zero where the fixture gives none), under the output's own
    name; `expected_grads` goes by the input's name. Both are empty where no gradient is stated.
    """

    graph: ir.Graph
    inputs: dict[str, Array]
    expected: dict[str, Array]
    upstream: dict[str, Array]
    expected_grads: dict[str, Array]


class Step(NamedTuple):
    """One op of a fixture: its name, and its operands by the names of inputs or earlier steps."""

    name: str
    op: str
    operands: dict[str, str]
    attrs: dict[str, Any]


def steps_of(fixture: Fixture) -> tuple[list[Step], dict[str, str]]:
    """The ops a fixture's outputs need, in order, and the step behind each output."""
    if fixture["op"] != "graph":
        operands = {name: name for name in fixture["inputs"]}
        only = Step(f"{fixture['op']}()", fixture["op"], operands, fixture["attrs"])
        return [only], dict.fromkeys(fixture["outputs"], only.name)
    outputs = fixture["attrs"]["outputs"]
    needed, steps = set(outputs.values()), []
    for node in reversed(fixture["attrs"]["nodes"]):
        if node["name"] in needed:
            needed |= set(node["in"].values())
            steps.append(Step(node["name"], node["op"], node["in"], node.get("attrs", {})))
    return steps[::-1], outputs


def build(fixture: Fixture) -> Case:
    """The fixture as a graph in float64, with its numbers standing as the graph wants them."""
    steps, outputs = steps_of(fixture)
    place, tensors = places(fixture, steps)
    inputs = {name: place[name](array) for name, array in tensors.items()}

    b = ir.Builder(fixture["id"])
    values = {name: b.input(name, type_of(array)) for name, array in inputs.items()}
    for step in steps:
        rule = RULES[step.op]
        assert rule.attrs >= step.attrs.keys(), f"{step.op} with {step.attrs}"
        operands = {key: values[name] for key, name in step.operands.items()}
        if "labels" in step.attrs:
            operands["labels"] = values["labels"]
        result = rule.emit(b, operands, step.attrs)
        values |= {step.name: result} if isinstance(result, ir.Value) else result
    for output, name in outputs.items():
        b.output(output, values[name if name in values else output])

    def placed(key: str, where: dict[str, str]) -> Iterator[tuple[str, Array]]:
        for name, numbers in fixture.get(key, {}).items():
            yield name, place[where.get(name, name)](np.array(numbers, float))

    expected = dict(placed("outputs", outputs))
    upstream = dict(placed("upstream", outputs))
    if upstream:
        upstream = {name: np.zeros_like(array) for name, array in expected.items()} | upstream
    return Case(b.build(), inputs, expected, upstream, dict(placed("gradients", {})))


def places(
    fixture: Fixture, steps: list[Step]
) -> tuple[dict[str, Callable[[Array], Array]], dict[str, Array]]:
    """How each name's numbers stand in the graph, and the tensors that are its inputs."""
    place: dict[str, Callable[[Array], Array]] = {}
    tensors: dict[str, Array] = {}
    for step in steps:
        rule = RULES[step.op]
        for key, name in step.operands.items():
            if name in fixture["inputs"]:
                tensors[name] = np.array(fixture["inputs"][name], float)
                place.setdefault(name, bind(rule.operands[key], step.attrs))
        if "labels" in step.attrs:
            tensors["labels"] = np.array(step.attrs["labels"], np.int64)
            place["labels"] = bind(rule.operands["labels"], step.attrs)
        place[step.name] = bind(rule.result, step.attrs)
    return place, tensors


def bind(stand: Stand, attrs: Attrs) -> Callable[[Array], Array]:
    return lambda array: stand(array, attrs)


def type_of(array: Array) -> str:
    scalar = {"f": "f64", "i": "i64"}[array.dtype.kind]
    return f"{scalar}[{', '.join(map(str, array.shape))}]"
