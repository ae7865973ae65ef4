"""A LeNet-like network for the digits: two stages of convolution, relu and pooling, two dense."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import ir
from ir.types import Array


def lenet(
    image: tuple[int, int, int] = (1, 8, 8),
    channels: tuple[int, int] = (16, 32),
    hidden: int = 64,
    classes: int = 10,
    kernel: int = 3,
    pad: str = "same",
    seed: int = 0,
) -> ir.Graph:
    """Images ``x`` [N, *image] to class scores ``scores`` [N, classes], float32.

    Weights are drawn as in He et al. 2015: variance 2 / fan-in; biases are 0.
    """
    rng = np.random.default_rng(seed)
    b = ir.Builder("lenet")
    value = b.input("x", ir.TensorType(ir.DType.FLOAT32, (ir.symbol("N"), *image)))
    inner = image[0]
    for number, outer in enumerate(channels, 1):
        w = b.weight(f"conv{number}.weight", _drawn(rng, (outer, inner, kernel, kernel)))
        bias = b.weight(f"conv{number}.bias", np.zeros(outer, np.float32))
        value = b.relu(b.bias(b.conv(value, w, pad=pad, name=f"conv{number}"), bias))
        value = b.max_pool(value, 2, name=f"pool{number}")
        inner = outer
    value = b.flatten(value)
    features = value.shape[1]
    assert isinstance(features, int)
    value = b.relu(_dense(b, rng, value, "dense1", features, hidden))
    b.output("scores", _dense(b, rng, value, "dense2", hidden, classes))
    return b.build()


def _dense(
    b: ir.Builder, rng: np.random.Generator, x: ir.Value, name: str, inner: int, outer: int
) -> ir.Value:
    w = b.weight(f"{name}.weight", _drawn(rng, (outer, inner)).T)
    return b.dense(x, w, b.weight(f"{name}.bias", np.zeros(outer, np.float32)))


def _drawn(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """Normal with variance 2 / fan-in, the fan-in being all axes but the first."""
    fan_in = int(np.prod(shape[1:]))
    return np.asarray(rng.standard_normal(shape) * np.sqrt(2 / fan_in), np.float32)


def with_loss(graph: ir.Graph, scores: str = "scores") -> ir.Graph:
    """The graph with an input ``labels`` [N] and the output ``loss``, their mean cross-entropy."""
    b = ir.Builder.of(graph)
    value = b.value(graph.outputs[scores])
    labels = b.input("labels", ir.TensorType(ir.DType.INT64, value.shape[:1]))
    b.output("loss", b.softmax_cross_entropy(value, labels))
    return b.build()
