"""The other engines' translations of graphs: op by op beside the reference, and whole networks."""

from __future__ import annotations

import numpy as np
import pytest

import convc
import ir
from convc import zoo
from convc.frontends.onnx.export.operators import OPERATORS
from convc.frontends.onnx.export.steps import steps
from convc.tools import peers
from convc.tools.peers import torch

TABLES = {"onnxruntime": OPERATORS, "openvino": OPERATORS, "torch": torch.TORCH}
WRONG = {("openvino", ir.ops.Uniform): "its integers do not wrap around"}
PAIRS = [(peer, op) for peer, table in TABLES.items() for op in table if (peer, op) not in WRONG]
CHANNELS = 6


def require(peer: str) -> None:
    for package in peers.PACKAGES[peer]:
        pytest.importorskip(package)


def of_example(example: ir.Example) -> ir.Graph:
    b = ir.Builder("example")
    operands = [b.input(f"x{number}", type) for number, type in enumerate(example.inputs)]
    b.output("y", b.emit(example.op, operands)[0])
    return b.build()


@pytest.mark.parametrize(("peer", "op"), PAIRS, ids=[f"{p}-{op.name}" for p, op in PAIRS])
def test_an_op_means_the_same_to_a_peer(peer: str, op: type[ir.Op]) -> None:
    """Some examples have no translation, and engines refuse empty batches."""
    require(peer)
    compared = 0
    for example in op.examples():
        graph = of_example(example)
        arrays = zip(graph.inputs.items(), example.arrays(np.random.default_rng(0)), strict=True)
        inputs = {name: array.astype(type.dtype.numpy) for (name, type), array in arrays}
        if "0" in example.name or (call := peers.contender(peer, graph, inputs, 1)) is None:
            continue
        (reference,) = ir.interpret(graph, inputs, "float64").values()
        result = np.asarray(call())
        assert result.shape == reference.shape
        np.testing.assert_allclose(result, reference, rtol=1e-4, atol=1e-4, err_msg=example.name)
        compared += 1
    assert compared >= 3


def normalised(scale: bool = True, shift: bool = True) -> ir.Graph:
    rng = np.random.default_rng(0)
    b = ir.Builder("normalised")

    def drawn(name: str, *shape: int) -> ir.Value:
        return b.weight(name, rng.uniform(0.5, 2.0, shape).astype(np.float32))

    x = b.input("x", "f32[2, 3, 5, 4]")
    y = b.conv(x, drawn("w", CHANNELS, 3, 3, 3), name="conv")
    y = b.bias(y, drawn("b", CHANNELS), name="biased")
    y = b.batch_norm(
        y, drawn("mean", CHANNELS), drawn("variance", CHANNELS),
        drawn("scale", CHANNELS) if scale else None,
        drawn("shift", CHANNELS) if scale and shift else None, name="normal",
    )  # fmt: skip
    b.output("y", b.relu(y))
    return b.build()


def test_biases_and_normalisation_are_operands_of_what_they_follow() -> None:
    found = [(step.op.name, len(step.operands), step.result) for step in steps(normalised())]
    assert found == [("conv", 3, "biased"), ("batch_norm", 5, "normal"), ("relu", 1, "relu")]


def test_a_value_that_others_read_is_left_alone() -> None:
    graph = normalised()
    read = graph.replace(outputs={"y": "relu", "conv": "conv"})
    assert [step.op.name for step in steps(read)][:2] == ["conv", "bias"]


@pytest.mark.parametrize("peer", TABLES)
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("shift", [True, False])
def test_normalisation_in_a_peer(peer: str, scale: bool, shift: bool) -> None:
    require(peer)
    graph = normalised(scale, shift)
    inputs = {"x": np.random.default_rng(1).standard_normal((2, 3, 5, 4), np.float32)}
    call = peers.contender(peer, graph, inputs, 1)
    assert call is not None
    reference = ir.interpret(graph, inputs, "float64")["y"]
    np.testing.assert_allclose(call(), reference, rtol=1e-4, atol=1e-5)


NETWORKS = (
    "classifier_adaptive",
    "resnet18",
    "mobilenetv2",
    "unet",
    "tcn",
    "c3d",
    "autoencoder",
    "squeezenet",
)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_the_same_to_pytorch(name: str) -> None:
    """The PyTorch twin beside native code: neither has anything to do with the interpreter."""
    require("torch")
    graph = zoo.build(name)
    graph = graph.bind(dict.fromkeys(graph.symbols, 70))
    x = np.random.default_rng(1).standard_normal(graph.inputs["x"].static_shape, np.float32)
    call = peers.contender("torch", graph, {"x": x}, 1)
    assert call is not None
    wanted, result = np.asarray(call()), convc.compile(graph)(x)
    np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_network_can_be_written_for_pytorch(name: str) -> None:
    graph = zoo.build(name)
    graph = graph.bind(dict.fromkeys(graph.symbols, 64))
    forms = (graph, ir.expand(graph))
    assert any({type(step.op) for step in steps(form)} <= torch.TORCH.keys() for form in forms)
