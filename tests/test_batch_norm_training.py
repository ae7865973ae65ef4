"""Training with batch normalisation: weights and running statistics beside PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.train import Trainer, training_step
from ir.types import Array
from tests.oracles import torch_or_skip

MOMENTUM, STATISTICS, EPSILON = 0.9, 0.2, 1e-3


def drawn() -> dict[str, Array]:
    """The weights of the network, by name."""
    rng = np.random.default_rng(4)
    shapes = {"conv": (5, 2, 3, 3), "scale": (5,), "shift": (5,), "dense": (5, 3)}
    weights = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return weights | {"mean": rng.standard_normal(5), "variance": rng.uniform(0.5, 2, 5)}


def network(training: bool) -> ir.Graph:
    b = ir.Builder("network")
    w = {name: b.weight(name, array) for name, array in drawn().items()}
    x = b.conv(b.input("x", "f64[N, 2, 7, 6]"), w["conv"])
    rest = w["mean"], w["variance"], w["scale"], w["shift"]
    if training:
        x, _, _ = b.batch_norm_training(x, *rest, STATISTICS, EPSILON)
    else:
        x = b.batch_norm(x, *rest, EPSILON)
    scores = b.dense(b.mean(b.relu(x), (2, 3)), w["dense"])
    b.output("scores", scores)
    if training:
        b.output("loss", b.softmax_cross_entropy(scores, b.input("labels", "i64[N]")))
    return b.build()


def batches() -> list[dict[str, Array]]:
    rng = np.random.default_rng(5)
    sizes = (4, 3, 7, 2)
    return [{"x": rng.standard_normal((n, 2, 7, 6)) + 1, "labels": rng.integers(0, 3, n)}
            for n in sizes]  # fmt: skip


class Twin:
    """The same network of PyTorch, with its own optimiser."""

    def __init__(self, torch: Any) -> None:
        self.torch, self.modules = torch, torch.nn
        self.norm = torch.nn.BatchNorm2d(5, EPSILON, STATISTICS, dtype=torch.float64)
        tensors = {name: torch.tensor(array) for name, array in drawn().items()}
        self.conv, self.dense = (tensors[name].requires_grad_() for name in ("conv", "dense"))
        with torch.no_grad():
            self.norm.weight.copy_(tensors["scale"])
            self.norm.bias.copy_(tensors["shift"])
            self.norm.running_mean.copy_(tensors["mean"])
            self.norm.running_var.copy_(tensors["variance"])
        parameters = [self.conv, self.dense, *self.norm.parameters()]
        self.optimiser = torch.optim.SGD(parameters, 0.1, MOMENTUM)

    def scores(self, x: Array) -> Any:
        y = self.norm(self.torch.conv2d(self.torch.tensor(x), self.conv))
        return self.torch.relu(y).mean((2, 3)) @ self.dense

    def step(self, x: Array, labels: Array) -> float:
        self.optimiser.zero_grad()
        loss = self.modules.functional.cross_entropy(self.scores(x), self.torch.tensor(labels))
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    @property
    def weights(self) -> dict[str, Array]:
        norm = self.norm
        tensors = {
            "conv": self.conv,
            "dense": self.dense,
            "scale": norm.weight,
            "shift": norm.bias,
            "mean": norm.running_mean,
            "variance": norm.running_var,
        }
        return {name: tensor.detach().numpy() for name, tensor in tensors.items()}  # fmt: skip


def test_weights_and_running_statistics_are_pytorchs_after_every_step() -> None:
    trainer, twin = Trainer(network(True), momentum=MOMENTUM, threads=1), Twin(torch_or_skip())
    for batch in batches():
        loss = trainer.step(batch, 0.1)
        assert loss == pytest.approx(twin.step(**batch), rel=1e-10)
        for name, want in twin.weights.items():
            np.testing.assert_allclose(trainer.weights[name], want, rtol=1e-8, err_msg=name)
    inference = trainer.trained(network(False))
    x = batches()[0]["x"]
    want = twin.norm.eval() and twin.scores(x).detach().numpy()
    np.testing.assert_allclose(convc.compile(inference)(x), want, rtol=1e-8)


def test_running_statistics_have_no_velocity() -> None:
    step = training_step(network(True))
    assert {"next_mean", "next_variance", "velocity_scale"} <= {*step.outputs, *step.inputs}
    assert "velocity_mean" not in step.inputs and "next_velocity_mean" not in step.outputs


def twice(chained: bool) -> ir.Graph:
    """One layer used twice, the second time going on from the running values of the first."""
    b = ir.Builder("twice")
    mean, variance = b.weight("mean", np.zeros(3)), b.weight("variance", np.ones(3))
    x, new_mean, new_variance = b.batch_norm_training(b.input("x", "f64[N, 3]"), mean, variance)
    given = (new_mean, new_variance) if chained else (mean, variance)
    y, _, _ = b.batch_norm_training(b.tanh(x * 2.0), *given)
    b.output("loss", b.sum(b.square(y) * 0.5 + y))
    return b.build()


def test_a_layer_used_twice_moves_its_statistics_twice() -> None:
    torch = torch_or_skip()
    x = np.random.default_rng(6).standard_normal((9, 3)) + 2
    trainer = Trainer(twice(chained=True), threads=1)
    trainer.step({"x": x}, 0.1)
    norm = torch.nn.BatchNorm1d(3, dtype=torch.float64, affine=False)
    norm(torch.tanh(norm(torch.tensor(x)) * 2))
    np.testing.assert_allclose(trainer.weights["mean"], norm.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(trainer.weights["variance"], norm.running_var.numpy(), rtol=1e-12)
    with pytest.raises(convc.Error, match="moves 'mean', as another node does; let it go on"):
        training_step(twice(chained=False))
