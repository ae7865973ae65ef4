"""The zoo: shapes and sizes as published, numbers that stay in range, native as interpreted."""

from __future__ import annotations

import re

import numpy as np
import pytest

import convc
import ir
from convc import zoo
from convc.backend.target import target_named
from convc.model import Options, stages
from convc.passes import PIPELINE
from convc.tools import peers
from ir.types import Array
from tests.cli.commands import refused, status

PARAMETERS = {
    "lenet": 431_080,
    "alexnet": 61_100_840,
    "vgg16": 138_357_544,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenetv2": 3_504_872,
    "squeezenet": 1_235_496,
    "densenet121": 7_978_856,
    "classifier_fixed": 3 * 64 * 9 + 64 + 64 * 64 * 9 + 64 + 16384 * 1000 + 1000,
    "classifier_adaptive": 3 * 64 * 9 + 64 + 64 * 64 * 9 + 64 + 576 * 1000 + 1000,
    "autoencoder": 16 * 9 + 16 + 32 * 16 * 9 + 32 + 16 + 1,  # tied: one kernel for both ways
}
GIGA_MULTIPLY_ADDS = {
    "alexnet": 0.71,
    "vgg16": 15.47,
    "resnet18": 1.81,
    "resnet50": 4.09,
    "mobilenetv2": 0.30,
    "squeezenet": 0.35,
    "densenet121": 2.83,
    "unet": 9.23,
    "tcn": 2.96,
    "c3d": 1.17,
}
RESULTS = {
    "unet": "f32[N, 2, 256, 256]",
    "tcn": "f32[N, 64, 16000]",
    "c3d": "f32[N, 101]",
    "lenet": "f32[N, 10]",
    "autoencoder": "f32[N, 1, 28, 28]",
}
OTHERS = ("softmax", "logistic", "reshape")  # whose results do not tell how large numbers become
BIG = ("alexnet", "vgg16", "resnet18", "resnet50", "densenet121", "unet")
EACH = [pytest.param(n, marks=pytest.mark.slow if n in BIG else ()) for n in zoo.NAMES]
SMALL = ("lenet", "autoencoder", "classifier_adaptive", "classifier_convolutional", "squeezenet")


def bound(name: str, batch: int = 1, size: int = 40) -> ir.Graph:
    graph = zoo.build(name, batch)
    return graph.bind(dict.fromkeys(graph.symbols, size))


def image(graph: ir.Graph, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(graph.inputs["x"].static_shape, np.float32)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_networks_have_the_published_sizes(name: str) -> None:
    graph = zoo.build(name, "N")
    assert graph.name == name
    assert list(graph.inputs) == ["x"]
    (value,) = graph.outputs.values()
    assert str(graph.types[value]) == RESULTS.get(name, "f32[N, 1000]")
    assert all(array.dtype == np.float32 for array in graph.weights.values())
    if name in PARAMETERS:
        trained = (a for n, a in graph.weights.items() if ".running_" not in n)
        assert sum(array.size for array in trained) == PARAMETERS[name]
    if name in GIGA_MULTIPLY_ADDS:
        flops = graph.bind({"N": 1}).cost().flops
        assert flops / 2e9 == pytest.approx(GIGA_MULTIPLY_ADDS[name], rel=0.06)


@pytest.mark.parametrize("name", [n for n in zoo.NAMES if n not in ("vgg16", "unet")])
def test_numbers_neither_vanish_nor_explode(name: str) -> None:
    graph = bound(name)
    (value,) = graph.outputs.values()
    values = ir.values(graph, {"x": image(graph)})
    scores = {node.name for node in graph.nodes if node.op.name not in OTHERS}
    large = (v for n, v in values.items() if n in scores and v.ndim > 1)
    deviations = [float(array.std()) for array in large if array.size > 1000]
    assert 0.05 < min(deviations) <= max(deviations) < 20
    assert np.unique(values[value]).size > min(values[value].size, 1000) / 2


def test_weights_come_from_the_seed() -> None:
    first, again, other = (zoo.build("lenet", seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_batches_of_any_size() -> None:
    fixed, free = zoo.build("autoencoder", 3), zoo.build("autoencoder", "N")
    assert fixed == free.bind({"N": 3})


@pytest.mark.parametrize("name", SMALL)
def test_native_is_as_interpreted(name: str) -> None:
    graph = bound(name, 2)
    x = image(graph)
    (reference,) = ir.interpret(graph, {"x": x}, "float64").values()
    result = convc.compile(graph)(x)
    np.testing.assert_allclose(result, reference, atol=1e-4 * np.abs(reference).max())


@pytest.mark.parametrize("name", EACH)
def test_native_is_as_in_pytorch(name: str) -> None:
    """Beside PyTorch in float64, as its sums of many terms in float32 are less exact."""
    peers_or_skip("torch")
    graph = bound(name, size=70)
    x = image(graph)
    call = peers.contender("torch", graph.with_dtype("f64"), {"x": x.astype(np.float64)}, 1)
    assert call is not None
    near(convc.compile(graph)(x), np.asarray(call()))


@pytest.mark.parametrize("name", EACH)
def test_native_is_as_in_onnx_runtime(name: str) -> None:
    peers_or_skip("onnxruntime")
    graph = bound(name, size=70)
    x = image(graph)
    call = peers.contender("onnxruntime", graph, {"x": x}, 1)
    assert call is not None
    near(convc.compile(graph)(x), np.asarray(call()))


def peers_or_skip(peer: str) -> None:
    for package in peers.PACKAGES[peer]:
        pytest.importorskip(package)


def near(got: Array, want: Array) -> None:
    """Within 1e-5 of the largest value."""
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["classifier_adaptive", "classifier_convolutional"])
def test_the_same_weights_take_images_of_any_size(name: str) -> None:
    graph = zoo.build(name)
    model = convc.compile(graph)
    for height, width in ((64, 64), (80, 70)):
        x = image(graph.bind({"H": height, "W": width}))
        (reference,) = ir.interpret(graph, {"x": x}, "float64").values()
        np.testing.assert_allclose(model(x), reference, rtol=1e-3, atol=1e-6)


CHECKED_SOON = ("lenet", "autoencoder", "classifier_adaptive", "classifier_convolutional")
CHECKED = [pytest.param(n, marks=() if n in CHECKED_SOON else pytest.mark.slow) for n in zoo.NAMES]


@pytest.mark.parametrize("name", CHECKED)
def test_check_finds_them_good_with_their_gradients(name: str) -> None:
    sizes = {"N": 1, "H": 35, "W": 41}
    given = [f"{symbol}={sizes[symbol]}" for symbol in zoo.build(name, "N").symbols]
    assert status("check", f"zoo:{name}", "--sizes", ",".join(given)) == 0


def test_a_model_may_be_a_name_of_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("show", "zoo:lenet") == 0
    assert capsys.readouterr().out == ir.to_text(zoo.build("lenet", "N"))
    assert "did you mean 'resnet18'" in refused(capsys, "show", "zoo:resnet8")
    with pytest.raises(convc.InputError, match="there are lenet, alexnet"):
        zoo.build("nothing like it")


@pytest.mark.parametrize("name", [n for n in zoo.NAMES if n not in ("alexnet", "vgg16")])
def test_the_arena_is_hardly_larger_than_what_is_alive_at_once(name: str) -> None:
    options = Options(1, "fast", (), target_named("avx512"), tuple(PIPELINE), ())
    plan = stages(bound(name, size=64), options).plan
    assert plan.live_bytes <= plan.arena_bytes <= 1.05 * plan.live_bytes


def test_a_name_without_the_prefix_is_recognised(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'zoo:lenet'?" in refused(capsys, "show", "lenet")
    assert "did you mean" not in refused(capsys, "show", "mynet")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((3,), "the name of a network, such as 'lenet'; got 3"),
        ((None,), "the name of a network, such as 'lenet'; got None"),
        (("lenet", 2.5), "the batch, a whole number or a symbol such as 'N'; got 2.5"),
        (("lenet", 1, "x"), "the seed, a whole number from 0 on; got 'x'"),
        (("lenet", 1, -1), "the seed, a whole number from 0 on; got -1"),
    ],
)
def test_arguments_of_other_types_are_refused(given, told):
    with pytest.raises(convc.Error, match=f"zoo.build takes {re.escape(told)}"):
        zoo.build(*given)
