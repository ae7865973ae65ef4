"""Real topologies that come with onnx, whose weights are drawn here, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from ir.types import Array
from tests.onnx.models import onnx, runtime
from tests.oracles import SEED

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
QUICK = ("squeezenet", "shufflenet", "resnet50")
SLOW = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "vgg19", "zfnet512")
ROLES = {
    ("BatchNormalization", 1): (1, 0.1),
    ("BatchNormalization", 4): (1, 0.1),
    ("Mul", 1): (1, 0.1),
}


def drawn(name: str) -> Any:
    """The model; its weights, which are each one value there, are random numbers."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    roles = dict(_roles(model))
    rng = np.random.default_rng(SEED)
    kept = []
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            array = _weight(rng, tuple(shapes[node.input[0]]), *roles.get(node.output[0], ("", 0)))
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _roles(model: Any) -> Any:
    """What a value is to its reader, seen through a change of its shape."""
    for node in reversed(model.graph.node):
        for place, name in enumerate(node.input):
            yield name, (node.op_type, place)
    readers = {name: (n.op_type, i) for n in model.graph.node for i, name in enumerate(n.input)}
    for node in model.graph.node:
        if node.op_type == "Unsqueeze":
            yield node.input[0], readers[node.output[0]]


def _weight(rng: np.random.Generator, shape: tuple[int, ...], kind: str, place: int) -> Array:
    """Numbers that keep signals at their size from layer to layer."""
    if kind in ("Conv", "Gemm") and place == 1:
        fan = np.prod(shape[1:]) if kind == "Conv" else max(shape)
        return (rng.standard_normal(shape, np.float32) * np.sqrt(2 / fan)).astype(np.float32)
    middle, spread = ROLES.get((kind, place), (0, 0.1))
    return (middle + spread * rng.standard_normal(shape, np.float32)).astype(np.float32)


def check(name: str) -> None:
    model = drawn(name)
    stored = {tensor.name for tensor in model.graph.initializer}
    (image,) = (value for value in model.graph.input if value.name not in stored)
    graph = convc.load(model)
    shape = graph.inputs[image.name].static_shape
    x = np.random.default_rng(SEED).standard_normal(shape, np.float32)
    expected = runtime(model, {image.name: x})
    found = convc.compile(graph).run({image.name: x})
    for output, wanted in expected.items():
        assert np.ptp(wanted) > 1e-3 * np.abs(wanted).max(), "an answer that says nothing"
        np.testing.assert_allclose(found[output], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", QUICK)
def test_a_topology_computes_what_onnx_runtime_does(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_large_topology_computes_what_onnx_runtime_does(name: str) -> None:
    check(name)
