"""ONNX's Backend interface: models and nodes run on arrays of any shapes."""

from __future__ import annotations

import unittest
from typing import Any

import numpy as np
import pytest

from convc import onnx_backend
from convc.errors import Error, InputError, LoadError
from ir.types import Array
from tests.onnx.models import INT64, info, make, model_of, node_model, runtime
from tests.oracles import SEED

RNG = np.random.default_rng(SEED)


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def network() -> Any:
    nodes = [
        make.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        make.make_node("Relu", ["a"], ["r"]),
        make.make_node("ArgMax", ["r"], ["best"], axis=1, keepdims=0),
    ]
    inputs = [info("x", ["N", 3, "H", None]), info("w", [4, 3, 3, 3])]
    outputs = [info("r", None), info("best", None, INT64)]
    return model_of(nodes, inputs, outputs, {"w": draw(4, 3, 3, 3)})


@pytest.mark.parametrize("options", [{"reference": True}, {"threads": 1}])
def test_a_model_runs_on_any_shapes(options: dict[str, Any]) -> None:
    model = network()
    prepared = onnx_backend.prepare(model, "CPU:0", **options)
    for shape in ((1, 3, 5, 5), (2, 3, 4, 7), (1, 3, 5, 5)):
        x = draw(*shape)
        wanted = runtime(model, {"x": x})
        for given in ([x], (x.astype(np.float64),), {"x": np.asfortranarray(x)}):
            relu, best = prepared.run(given)
            np.testing.assert_allclose(relu, wanted["r"], rtol=0, atol=1e-5)
            np.testing.assert_array_equal(best, wanted["best"])
            assert (relu.dtype, best.dtype) == (np.float32, np.int64)


def test_inputs_that_shapes_depend_on_are_taken_from_each_call() -> None:
    model = node_model("Reshape", {"x": draw(2, 6), "shape": np.array([3, 4])})
    prepared = onnx_backend.prepare(model, threads=1)
    x = draw(2, 6)
    for shape in ([3, 4], [12, 1], [4, -1], [3, 4]):
        (found,) = prepared.run([x, np.array(shape)])
        np.testing.assert_array_equal(found, x.reshape(shape))


@pytest.mark.parametrize(("given", "reason"), [
    ([], "0 arrays for the inputs x"),
    ([np.ones(2), np.ones(2)], "2 arrays for the inputs x"),
    ({"y": np.ones(2)}, "arrays for y; the inputs are: x"),
])  # fmt: skip
def test_arrays_must_be_those_of_the_inputs(given: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        onnx_backend.run_model(network(), given)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(Error, match="Conv"):
        onnx_backend.run_model(network(), [draw(1, 2, 5, 5)])


def test_only_the_processor_is_a_device() -> None:
    assert onnx_backend.supports_device("CPU")
    assert onnx_backend.supports_device("CPU:0")
    assert not onnx_backend.supports_device("CUDA")
    assert not onnx_backend.is_compatible(network(), "CUDA:0")
    with pytest.raises(InputError, match="device 'CUDA' is not the CPU"):
        onnx_backend.prepare(network(), "CUDA")


def test_models_with_unknown_operators_are_not_compatible() -> None:
    assert onnx_backend.is_compatible(network())
    model = network()
    model.graph.node[1].op_type = "Frobnicate"
    assert not onnx_backend.is_compatible(model)
    with pytest.raises(LoadError, match="Frobnicate"):
        onnx_backend.run_model(model, [draw(1, 3, 5, 5)])


def test_a_node_runs_alone() -> None:
    x, y = draw(3, 1), draw(1, 4)
    (found,) = onnx_backend.run_node(make.make_node("Sub", ["x", "y"], ["z"]), [x, y])
    np.testing.assert_array_equal(found, x - y)
    (found,) = onnx_backend.run_node(make.make_node("Mul", ["x", "x"], ["z"]), [x])
    np.testing.assert_array_equal(found, x * x)
    node = make.make_node("Clip", ["x", "", "high"], ["z"])
    (found,) = onnx_backend.run_node(node, [x, np.float32(0.1)], reference=True)
    np.testing.assert_array_equal(found, np.minimum(x, np.float32(0.1)))


def test_a_node_of_an_older_opset() -> None:
    """Softmax was one over all axes from the given one on."""
    x = draw(2, 3, 4)
    node = make.make_node("Softmax", ["x"], ["y"])
    for version, axes in ((12, (1, 2)), (13, (2,))):
        (found,) = onnx_backend.run_node(node, [x], opset_version=version)
        assert np.allclose(found.sum(axes), 1)


def test_outputs_of_a_node_in_the_types_that_are_told() -> None:
    node = make.make_node("TopOf", ["x"], ["y"], domain="own")
    with pytest.raises(LoadError, match=r"own\.TopOf"):
        onnx_backend.run_node(node, [draw(2)], outputs_info=[(np.float32, (2,))])
    node = make.make_node("Ceil", ["x"], ["y"])
    (found,) = onnx_backend.run_node(node, [draw(2)], outputs_info=[(np.float64, (2,))])
    assert found.dtype == np.float64


def test_the_suite_of_the_standard_takes_the_module() -> None:
    """As its documentation says; here with one case."""
    suite: Any = pytest.importorskip("onnx.backend.test")
    tests = suite.BackendTest(onnx_backend, __name__).include("^test_relu_cpu$")
    result = unittest.TestResult()
    tests.test_cases["OnnxBackendNodeModelTest"]("test_relu_cpu").run(result)
    assert result.testsRun == 1
    assert not result.skipped
    assert result.wasSuccessful(), result.failures + result.errors
