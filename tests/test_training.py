"""What a trainer learns and what it leaves alone, how it goes on, and how it is compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.train import Trainer
from ir.types import Array
from tests.oracles import torch_or_skip

NAMES = ("kernel", "scale", "shift", "mean", "variance", "dense")


def drawn() -> dict[str, Array]:
    rng = np.random.default_rng(4)
    kernel, dense = rng.standard_normal((5, 2, 3, 3)), rng.standard_normal((5, 3))
    mean, variance = rng.standard_normal(5) / 3, rng.uniform(0.5, 2, 5)
    return dict(zip(NAMES, (kernel, np.ones(5), np.zeros(5), mean, variance, dense), strict=True))


def network() -> ir.Graph:
    """A network for inference, as models come from files, with a loss."""
    b = ir.Builder("network")
    w = {name: b.weight(name, array) for name, array in drawn().items()}
    x = b.conv(b.input("x", "f64[N, 2, 7, 6]"), w["kernel"], name="conv")
    x = b.relu(b.batch_norm(x, w["mean"], w["variance"], w["scale"], w["shift"]))
    scores = b.dense(b.mean(x, (2, 3)), w["dense"])
    b.output("loss", b.softmax_cross_entropy(scores, b.input("labels", "i64[N]")))
    return b.build()


def batch() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    return {"x": rng.standard_normal((6, 2, 7, 6)), "labels": rng.integers(0, 3, 6)}


def test_given_statistics_are_constants_and_the_rest_is_learned_as_by_pytorch() -> None:
    torch = torch_or_skip()
    trainer, given = Trainer(network(), threads=1), batch()
    leaves = {name: torch.tensor(array) for name, array in drawn().items()}
    learned = [leaves[name].requires_grad_() for name in NAMES if name not in ("mean", "variance")]
    optimiser = torch.optim.SGD(learned, 0.1, 0.9)
    for _ in range(5):
        loss = trainer.step(given, 0.1)
        optimiser.zero_grad()
        y = torch.nn.functional.batch_norm(
            torch.conv2d(torch.tensor(given["x"]), leaves["kernel"]),
            *(leaves[name] for name in ("mean", "variance", "scale", "shift")),
        )
        scores = torch.relu(y).mean((2, 3)) @ leaves["dense"]
        want = torch.nn.functional.cross_entropy(scores, torch.tensor(given["labels"]))
        want.backward()
        optimiser.step()
        assert loss == pytest.approx(float(want.detach()), rel=1e-10)
    assert trainer.weights.keys() == {*NAMES} - {"mean", "variance"}
    after = trainer.trained().weights
    for name in NAMES:
        np.testing.assert_allclose(after[name], leaves[name].detach().numpy(), rtol=1e-8)


@pytest.mark.parametrize(
    ("wrt", "learned"),
    [
        (["dense"], {"dense"}),
        (("dense", "variance"), {"dense", "variance"}),
        (lambda name: name != "kernel", {"dense", "scale", "shift"}),
        (lambda name: name.startswith("s"), {"scale", "shift"}),
    ],
)
def test_what_is_learned_can_be_chosen(wrt: Any, learned: set[str]) -> None:
    trainer, before = Trainer(network(), wrt=wrt, threads=1), network().weights
    trainer.step(batch(), 0.1)
    assert trainer.weights.keys() == learned
    after = trainer.trained().weights
    assert {name for name in NAMES if not np.array_equal(before[name], after[name])} == learned


@pytest.mark.parametrize(
    ("wrt", "message"),
    [
        (["dens"], r"wrt: 'dens' is no weight that gradients reach; .*: kernel, .*, dense$"),
        (["x"], "wrt: 'x' is no weight"),
        ([3], "wrt: 3 is no weight"),
        ("dense", r"wrt='dense': give \['dense'\]"),
        (3, "wrt=3: give names, or a function of the name"),
        (lambda name: False, "wrt chooses none of the weights: kernel, scale, shift, dense$"),
    ],
)
def test_a_wrong_choice_is_refused_with_what_there_is(wrt: Any, message: str) -> None:
    with pytest.raises(convc.InputError, match=message):
        Trainer(network(), wrt=wrt)


def test_running_statistics_cannot_be_learned() -> None:
    b = ir.Builder("running")
    mean, variance = b.weight("mean", np.zeros(3)), b.weight("variance", np.ones(3))
    y, _, _ = b.batch_norm_training(b.input("x", "f64[N, 3]"), mean, variance)
    b.output("loss", b.sum(b.square(y * b.weight("w", np.ones(3)))))
    with pytest.raises(convc.InputError, match=r"'mean' is no weight .*: w$"):
        Trainer(b.build(), wrt=["mean"])
    trainer = Trainer(b.build(), wrt=[], threads=1)
    trainer.step({"x": np.arange(12.0).reshape(4, 3)}, 0.1)
    assert trainer.weights.keys() == {"mean", "variance"}


def test_training_goes_on_from_a_saved_state_as_if_never_stopped(tmp_path: Path) -> None:
    first, given = Trainer(network(), threads=1), batch()
    first.step(given, 0.1)
    np.savez(tmp_path / "state.npz", **first.state)
    second = Trainer(network(), threads=1)
    with np.load(tmp_path / "state.npz") as state:
        second.resume(state)
    for _ in range(2):
        assert first.step(given, 0.1) == second.step(given, 0.1)
    for name, array in first.state.items():
        np.testing.assert_array_equal(array, second.state[name])


def test_a_state_of_another_graph_is_refused() -> None:
    trainer = Trainer(network(), threads=1)
    before = trainer.state
    with pytest.raises(convc.InputError, match="the state must have kernel, velocity_kernel, "):
        trainer.resume(trainer.weights)
    wrong = {**before, "velocity_dense": np.zeros((3, 5))}
    message = r"state of 'velocity_dense' is float64\[3, 5\], must be float64\[5, 3\]"
    with pytest.raises(convc.InputError, match=message):
        trainer.resume(wrong)
    with pytest.raises(convc.InputError, match="not None"):
        trainer.resume(None)  # type: ignore[arg-type]


def scoring(**weights: Array) -> ir.Graph:
    b = ir.Builder("scoring")
    y = b.input("x", "f64[N, 5]")
    for name, array in weights.items():
        y = b.matmul(b.cast(y, ir.TensorType.of(array).dtype), b.weight(name, array))
    b.output("y", y)
    return b.build()


def test_trained_weights_go_into_graphs_that_have_some_of_them() -> None:
    trainer = Trainer(network(), threads=1)
    trainer.step(batch(), 0.1)
    after = trainer.trained(scoring(dense=np.zeros((5, 3)), more=np.ones((3, 2)))).weights
    np.testing.assert_array_equal(after["dense"], trainer.weights["dense"])
    assert after.keys() == {"dense", "more"} and np.all(after["more"] == 1)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"densest": np.zeros((5, 3))}, r"'scoring' has no .*: it has densest, .* kernel, scale"),
        ({}, r"'scoring' has no weight that was trained: it has \(none\), and the trainer kernel"),
        ({"dense": np.zeros((5, 4))}, r"'dense' .* is f64\[5, 4\], and was .* as f64\[5, 3\]"),
        ({"dense": np.zeros((5, 3), "f4")}, r"'dense' .* is f32\[5, 3\], and .* as f64\[5, 3\]"),
    ],
)
def test_trained_weights_do_not_go_into_other_graphs(
    weights: dict[str, Array], message: str
) -> None:
    with pytest.raises(convc.InputError, match=message):
        Trainer(network(), threads=1).trained(scoring(**weights))


def test_a_trainer_is_compiled_as_asked() -> None:
    how: dict[str, Any] = {"accuracy": "exact", "memory": 1 << 30, "algorithms": {"conv": "direct"}}
    options = Trainer(network(), threads=1, passes=(), **how).model.options
    assert (options.accuracy, options.memory, options.passes) == ("exact", 1 << 30, ())
    assert options.algorithms == (("conv", "direct"),)


@pytest.mark.parametrize("number", [0.5, -np.inf])
def test_numbers_in_the_formula_of_an_onnx_model_are_not_learned(number: float) -> None:
    helper = pytest.importorskip("onnx").helper
    numbers = pytest.importorskip("onnx").numpy_helper
    kind, count = pytest.importorskip("onnx").TensorProto.FLOAT, np.float32(number)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numbers.from_array(np.asarray(count))),
        helper.make_node("Mul", ["x", "w"], ["weighted"]),
        helper.make_node("Max" if np.isinf(number) else "Mul", ["weighted", "c"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, kind, ["N", 3]) for name in "xy"]
    stored = [numbers.from_array(np.ones(3, np.float32), "w")]
    proto = helper.make_graph(nodes, "net", values[:1], values[1:], stored)
    graph = convc.load(helper.make_model(proto))
    b = ir.Builder.of(graph)
    b.output("loss", b.sum(b.square(b.value(graph.outputs["y"]))))
    trainer, x = Trainer(b.build(), threads=1), np.ones((2, 3), np.float32)
    assert trainer.step({"x": x}, 0.1) == 6 * (1 if np.isinf(number) else number**2)
    assert trainer.weights.keys() == {"w"}
