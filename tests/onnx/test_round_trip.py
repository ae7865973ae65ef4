"""Networks out to ONNX and in again, and models in and out again, beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc import zoo
from convc.frontends.onnx.errors import ConstantNeededError
from ir.types import Array
from tests.onnx import conformance
from tests.onnx.models import runtime
from tests.onnx.test_export import checked, noise
from tests.onnx.test_light import QUICK, SLOW
from tests.onnx.test_light import drawn as light
from tests.oracles import SEED

TOLERANCE = 1e-5
"""Of the largest number of an answer."""
SMALL = ("lenet", "squeezenet", "autoencoder", "tcn", "classifier_convolutional")
STATIC = {"classifier_adaptive"}
"""ONNX has no bins whose bounds depend on symbolic sizes."""
SIZES = {"N": 2, "H": 70, "W": 64}


def close(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
    assert found.keys() == wanted.keys()
    for name, reference in wanted.items():
        assert found[name].shape == reference.shape
        assert np.ptp(reference) > 1e-3 * np.abs(reference).max(), "an answer that says nothing"
        scale = np.abs(reference).max()
        np.testing.assert_allclose(found[name], reference, rtol=0, atol=TOLERANCE * scale)


def there_and_back(name: str) -> None:
    """ONNX Runtime computes what convc does, and so does convc from the file, at any sizes."""
    graph = zoo.build(name, "N")
    bound = graph.bind({symbol: SIZES.get(symbol, 64) for symbol in graph.symbols})
    model = checked(bound if name in STATIC else graph)
    back = convc.load(model)
    assert dict(back.inputs) == dict((bound if name in STATIC else graph).inputs)
    assert back.weights.keys() >= graph.weights.keys()
    rng = np.random.default_rng(SEED)
    given = {n: rng.standard_normal(t.static_shape, np.float32) for n, t in bound.inputs.items()}
    wanted = runtime(model, given)
    close(convc.compile(bound).run(given), wanted)
    close(convc.compile(back).run(given), wanted)


@pytest.mark.parametrize("name", SMALL)
def test_a_network_goes_out_and_comes_back(name: str) -> None:
    there_and_back(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(zoo.NAMES) - set(SMALL)))
def test_a_large_network_goes_out_and_comes_back(name: str) -> None:
    there_and_back(name)


def in_and_out(name: str) -> None:
    model = light(name)
    graph = convc.load(model)
    given = noise(graph)
    close(runtime(checked(graph), given), runtime(model, given))


@pytest.mark.parametrize("name", QUICK[:2])
def test_a_model_that_came_in_goes_out_again(name: str) -> None:
    in_and_out(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*QUICK[2:], *SLOW}))
def test_a_large_model_that_came_in_goes_out_again(name: str) -> None:
    in_and_out(name)


def imported(model: Any, arrays: Mapping[str, Array]) -> ir.Graph | None:
    """The graph, with inputs that shapes depend on given already; None where it cannot be."""
    constants: dict[str, Array] = {}
    while True:
        try:
            return convc.load(model, constants=constants)
        except ConstantNeededError as error:
            if error.inputs <= constants.keys():
                return None
            constants |= {name: arrays[name] for name in error.inputs}
        except ir.Error:  # the importer's tests know which
            return None


def outcomes(family: str) -> Iterator[tuple[str, str]]:
    """The standard's own cases that come in, gone out again and run: the name, what is wrong."""
    runner: Any = pytest.importorskip("onnx.backend.test.runner")
    for case in conformance.cases()[family]:
        for inputs, outputs in case.data_sets:
            arrays = dict(zip((v.name for v in case.model.graph.input), inputs, strict=True))
            graph = imported(case.model, arrays)
            if graph is None:
                continue
            given = {name: np.asarray(arrays[name]).astype(type.dtype.numpy)
                     for name, type in graph.inputs.items()}  # fmt: skip
            try:
                found = runtime(convc.to_onnx(graph), given).values()
                pairs = zip(outputs, found, strict=True)
                cast = [array.astype(np.asarray(wanted).dtype) for wanted, array in pairs]
                runner.Runner.assert_similar_outputs(outputs, cast, case.rtol, case.atol)
                yield case.name, ""
            except Exception as error:  # whatever it is, the case has failed
                yield case.name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@pytest.mark.parametrize("family", conformance.FAMILIES)
def test_the_standards_cases_that_come_in_go_out_again(family: str) -> None:
    found = list(outcomes(family))
    assert [(name, wrong) for name, wrong in found if wrong] == []
    assert len(found) > 0.9 * len(conformance.cases()[family])


def test_a_training_step_with_dropout_goes_out_and_comes_back() -> None:
    """Random numbers are a function of the model, which is read back as the op."""
    rng = np.random.default_rng(SEED)
    b = ir.Builder("dropout")
    x, seed, labels = b.input("x", "f32[N, 20]"), b.input("seed", "i64[]"), b.input("y", "i64[N]")
    weights = (
        b.weight(name, rng.standard_normal(shape, np.float32))
        for name, shape in (("v", (20, 17)), ("w", (17, 5)))
    )
    for number, weight in enumerate(weights):
        x = b.dense(b.dropout(x, 0.5, b.weight(f"seed{number}", np.array(number))), weight)
    b.output("loss", b.softmax_cross_entropy(b.dropout(x, 0.1, seed), labels))
    graph = ir.vjp(b.build(), ["v", "w"])
    model = checked(graph)
    assert [function.name for function in model.functions] == ["Uniform"]
    back = convc.load(model)
    assert dict(back.inputs) == dict(graph.inputs)
    for read in (graph, back):
        assert sum(isinstance(node.op, ir.ops.Uniform) for node in read.nodes) == 3
    assert convc.to_onnx(back).functions == model.functions
    for batch in (4, 7):
        given: dict[str, Array] = {
            "x": rng.standard_normal((batch, 20), np.float32), "seed": np.array(batch),
            "y": rng.integers(0, 5, batch), "grad_loss": np.ones((), np.float32),
        }  # fmt: skip
        wanted = ir.interpret(graph, given)
        for found in (runtime(model, given), convc.compile(back).run(given)):
            for name, reference in wanted.items():
                np.testing.assert_allclose(found[name], reference, rtol=1e-4, atol=1e-5)
