"""What gradients stop at: frozen features, and weights that belong to an op."""

from __future__ import annotations

import numpy as np
import pytest

import convc
import ir
from convc.train import Trainer
from tests.oracles import torch_or_skip


def test_a_stopped_value_is_a_constant_of_every_derivative() -> None:
    torch = torch_or_skip()
    b = ir.Builder("stopped")
    x, w = b.input("x", "f64[3, 17]"), b.input("w", "f64[17]")
    b.output("y", b.tanh(b.stop_gradient(b.exp(x) * w)) * x * w)
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((3, 17)), rng.standard_normal(17), rng.standard_normal((3, 17))
    leaves = [torch.tensor(array, requires_grad=True) for array in arrays[:2]]
    y = torch.tanh((torch.exp(leaves[0]) * leaves[1]).detach()) * leaves[0] * leaves[1]
    y.backward(torch.tensor(arrays[2]))
    got = convc.compile(ir.vjp(b.build()))(*arrays)
    for result, want in zip(got, (y, *(leaf.grad for leaf in leaves)), strict=True):
        np.testing.assert_allclose(result, want.detach().numpy(), rtol=1e-12)


def test_it_costs_nothing_when_compiled() -> None:
    b = ir.Builder("free")
    b.output("y", b.relu(b.stop_gradient(b.tanh(b.input("x", "f32[3, 17]")))))
    assert "stop_gradient" not in str(convc.compile(b.build()).stages().optimised)


def test_only_the_last_layer_is_trained_behind_frozen_features() -> None:
    rng = np.random.default_rng(1)
    b = ir.Builder("frozen")
    x, labels = b.input("x", "f32[N, 2, 6, 6]"), b.input("labels", "i64[N]")
    drawn = rng.standard_normal((5, 2, 3, 3)).astype(np.float32)
    features = b.relu(b.conv(x, b.weight("random", drawn)))
    pooled = b.stop_gradient(b.mean(features, (2, 3)))
    scores = b.dense(pooled, b.weight("dense", np.zeros((5, 3), np.float32)))
    b.output("loss", b.softmax_cross_entropy(scores, labels))
    trainer = Trainer(b.build())
    batch = {"x": rng.standard_normal((6, 2, 6, 6), np.float32), "labels": np.arange(6) % 3}
    losses = [trainer.step(batch, 0.5) for _ in range(20)]
    assert losses[-1] < losses[0] and trainer.weights.keys() == {"dense"}
    np.testing.assert_array_equal(trainer.trained().weights["random"], drawn)


@pytest.mark.parametrize("kind", ["distance", "blur", "max blur", "region"])
def test_given_weights_of_pools_stay_as_they_are(kind: str) -> None:
    b = ir.Builder("given")
    x = b.input("x", "f32[2, 3, 6, 6]")
    w = b.weight("w", np.ones((3, 3, 3, 3), np.float32))
    h = b.conv(x, w, pad="same")
    pooled = {
        "distance": lambda: b.distance_pool(h, 3, stride=1, pad=1),
        "blur": lambda: b.blur_pool(h),
        "max blur": lambda: b.max_blur_pool(h, 2),
        "region": lambda: b.region_pool(h, [[0, 1, 7], [35]], "average"),
    }[kind]()
    b.output("loss", b.sum(b.square(pooled)))
    trainer = Trainer(b.build())
    trainer.step({"x": np.ones((2, 3, 6, 6), np.float32)}, 0.01)
    assert trainer.weights.keys() == {"w"} and (trainer.weights["w"] != 1).all()
    before, after = b.build().weights, trainer.trained().weights
    assert all(np.array_equal(before[name], after[name]) for name in before if name != "w")


def test_a_connection_that_is_removed_stays_removed() -> None:
    rng = np.random.default_rng(2)
    mask = np.array([[1, 0, 1], [0, 1, 1]], np.float32)
    b = ir.Builder("masked")
    w = b.weight("w", rng.standard_normal((2, 3), np.float32))
    y = b.dense(b.input("x", "f32[N, 2]"), w, mask=b.weight("mask", mask))
    b.output("loss", b.sum(b.square(y - 1.0)))
    trainer = Trainer(b.build())
    trainer.step({"x": np.ones((4, 2), np.float32)}, 0.01)
    assert trainer.weights.keys() == {"w"}
    assert np.array_equal(trainer.weights["w"] != b.build().weights["w"], mask > 0)


def test_distance_weights_are_positive() -> None:
    """A window may overhang the border so far that only its corner is left."""
    b = ir.Builder("distance")
    x = b.input("x", "f32[1, 1, 5, 5]")
    with pytest.raises(ir.AttributeValueError, match=r"the corners are 1\.41 from the middle"):
        b.distance_pool(x, 3, "linear", 1.4, 1, 2)
    b.output("y", b.distance_pool(x, 3, "linear", 1.5, 1, 2))
    ones = np.ones((1, 1, 5, 5), np.float32)
    np.testing.assert_allclose(convc.compile(b.build())(ones), 1, rtol=1e-5)
