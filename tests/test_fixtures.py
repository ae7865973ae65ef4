"""The worked fixtures as graphs, forward and backward: interpreted, as loops, and native."""

from collections.abc import Callable

import numpy as np
import pytest

import convc
import ir
from tests import loops_runner
from tests.fixture_graphs import (
    COMPUTED,
    COMPUTED_IDS,
    FIXTURES,
    GRAPH_IDS,
    Array,
    Case,
    build,
)

Run = Callable[[ir.Graph, dict[str, Array]], dict[str, Array]]


def native(graph: ir.Graph, inputs: dict[str, Array]) -> dict[str, Array]:
    return convc.compile(graph).run(inputs)


def looped(graph: ir.Graph, inputs: dict[str, Array]) -> dict[str, Array]:
    """The compiled kernels, interpreted."""
    flat = loops_runner.run(convc.compile(graph).stages().plan, inputs, loops_runner.as_loops())
    types = {name: graph.types[value] for name, value in graph.outputs.items()}
    return {name: flat[name].reshape(types[name].static_shape) for name in types}


RUNNERS = [
    pytest.param(ir.interpret, id="interpreter"),
    pytest.param(looped, id="loops"),
    pytest.param(native, id="native"),
]
WITH_GRADIENTS = [name for name in GRAPH_IDS if "gradients" in FIXTURES[name]]


def assert_close(got: dict[str, Array], want: dict[str, Array], tolerance: float) -> None:
    """Within `tolerance` of the largest number wanted, as the fixtures state their tolerances."""
    for name, array in want.items():
        scale = max(1.0, float(np.max(np.abs(array))))
        assert got[name].dtype == np.float64
        assert got[name].shape == array.shape, name
        np.testing.assert_allclose(got[name], array, rtol=0, atol=tolerance * scale, err_msg=name)


def gradients(case: Case, run: Run) -> dict[str, Array]:
    """What `run` makes of the gradient graph, by the names of the inputs differentiated."""
    upstream = {f"grad_{name}": array for name, array in case.upstream.items()}
    graph = ir.vjp(case.graph, wrt=list(case.expected_grads))
    results = run(graph, case.inputs | upstream)
    return {name: results[f"grad_{name}"] for name in case.expected_grads}


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("name", GRAPH_IDS)
def test_outputs(name: str, run: Run) -> None:
    case = build(FIXTURES[name])
    assert_close(run(case.graph, case.inputs), case.expected, FIXTURES[name].get("tol", 1e-9))


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_gradients(name: str, run: Run) -> None:
    case = build(FIXTURES[name])
    tolerance = FIXTURES[name].get("grad_tol", 1e-9)
    assert_close(gradients(case, run), case.expected_grads, tolerance)


@pytest.mark.parametrize("name", COMPUTED_IDS)
def test_numbers(name: str) -> None:
    """Sizes, counts, costs: computed by the functions of the project."""
    fixture = FIXTURES[name]
    results = COMPUTED[fixture["op"]](fixture["attrs"], fixture["inputs"])
    assert results.keys() == fixture["outputs"].keys()
    for key, expected in fixture["outputs"].items():
        tolerance = fixture.get("tol", 1e-9)
        np.testing.assert_allclose(results[key], expected, rtol=0, atol=tolerance, err_msg=key)


def test_there_are_169_fixtures() -> None:
    assert len(FIXTURES) == len(GRAPH_IDS) + len(COMPUTED_IDS) == 169
