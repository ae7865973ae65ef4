"""What ``compile``, models, passes, settings and trainers say to wrong arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc import settings
from convc.passes import PIPELINE, optimised, run_passes
from convc.train import Trainer, load_digits


def small() -> ir.Graph:
    b = ir.Builder("small")
    x, labels = b.input("x", "f32[2, 3]"), b.input("labels", "i64[2]")
    scores = b.relu(x * 2.0)
    b.output("loss", b.softmax_cross_entropy(scores, labels))
    b.output("scores", scores)
    return b.build()


# ---------------------------------------------------------------- compile


@pytest.mark.parametrize(
    ("graph", "hint"),
    [
        ("small.ir", r"not 'small.ir'; read it first: convc.load"),
        (Path("small.ir"), "convc.load"),
        (ir.Builder("b"), r"builder.build\(\)"),
        (None, "ir.Builder or convc.load"),
    ],
)
def test_compile_takes_a_graph(graph: Any, hint: str) -> None:
    with pytest.raises(convc.InputError, match=f"graph must be an ir.Graph.*{hint}"):
        convc.compile(graph)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": True}, "threads=True: give 1 or more as an int"),
        ({"threads": 2.0}, "threads=2.0"),
        ({"threads": "2"}, "threads='2'"),
        ({"algorithms": "direct"}, r'algorithms=\'direct\'.*{"conv1": "winograd"}'),
        ({"algorithms": ["direct"]}, "algorithms=a value of type list"),
        ({"algorithms": {"scale": print}}, "algorithms has 'scale': a value of type builtin"),
        ({"passes": optimised}, "passes=a value of type function: give a sequence"),
        ({"passes": [None]}, r"passes\[0\] is None"),
        ({"by_image": "no"}, "by_image='no': give True or False"),
        ({"tune": "long"}, "tune='long': give True, False, or seconds"),
        ({"tune": -1.0}, "tune=-1.0: give True"),
        ({"tune": np.inf}, "tune=inf: give True"),
        ({"tuning": 3}, "tuning=3: give the path of a file"),
        ({"tune": 1, "tuning": "times.jsonl"}, "give one"),
    ],
)
def test_compile_refuses_arguments_of_a_wrong_kind(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(convc.InputError, match=message):
        convc.compile(small(), **arguments)


def test_help_explains_every_argument_in_words() -> None:
    signature, doc = inspect.signature(convc.compile), inspect.getdoc(convc.compile)
    assert " at 0x" not in str(signature)
    assert doc is not None
    for name in signature.parameters:
        assert doc.count(f"\n``{name}``: ") == 1, name
    given = convc.compile(small(), passes=None).stages()
    assert given.optimised == convc.compile(small(), passes=PIPELINE).stages().optimised


def test_an_op_without_an_algorithm_comes_with_a_way_out() -> None:
    b = ir.Builder("odd")
    b.output("y", b.apply(Odd(), b.input("x", "f32[3]")))
    with pytest.raises(convc.AlgorithmError, match=r"computes odd\(.*add an algorithm") as no:
        convc.compile(b.build())
    assert len(str(no.value)) < 160


class Odd(ir.ops.Relu):
    """An op that nothing computes."""

    name = "odd"


# ---------------------------------------------------------------- models


def test_a_model_says_what_it_is_and_what_it_takes() -> None:
    model = convc.compile(small(), threads=1)
    assert repr(small()) in repr(model)
    assert repr(model).endswith(f"{model.options.target.name}, threads: 1>")
    x = np.ones((2, 3), np.float32)
    with pytest.raises(convc.InputError, match="by name, not a value of type list; give a dict"):
        model.run([x])  # type: ignore[arg-type]
    with pytest.raises(ir.InputError, match=r"x: f32\[2, 3\], labels: i64\[2\]; .*model.run"):
        model(x)
    with pytest.raises(ir.InputError, match=r"^x=: call model.run\("):
        model(x=x)


def test_numpy_scalars_are_arrays_of_rank_0() -> None:
    b = ir.Builder("scalars")
    b.output("y", b.input("x", "f32[2]") * b.input("rate", "f32[]"))
    x, graph = np.ones(2, np.float32), b.build()
    model = convc.compile(graph, threads=1)
    for run in (model.run, functools.partial(ir.interpret, graph)):
        np.testing.assert_array_equal(run({"x": x, "rate": np.float32(3)})["y"], [3, 3])
        with pytest.raises(ir.InputError, match="'rate' has element type float64, not f32"):
            run({"x": x, "rate": np.float64(3)})  # type: ignore[dict-item]
        with pytest.raises(ir.InputError, match=r"got float; convert it with np.asarray\(..., 'fl"):
            run({"x": x, "rate": 3.0})  # type: ignore[dict-item]


# ---------------------------------------------------------------- passes


def nothing(graph: ir.Graph) -> Any:
    return None


def renamed(graph: ir.Graph) -> ir.Graph:
    return graph.replace(outputs={"other": graph.outputs["loss"]})


def turned(graph: ir.Graph) -> ir.Graph:
    return graph.replace(inputs=dict(reversed(graph.inputs.items())))


def broken(graph: ir.Graph) -> ir.Graph:
    return graph.replace(nodes=())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (nothing, "pass nothing returned None, not an ir.Graph"),
        (renamed, "pass renamed changed the outputs from .* to .other"),
        (turned, "pass turned changed the inputs"),
        (broken, "pass broken: output 'loss' is"),
        (functools.partial(nothing), "pass nothing returned"),
    ],
)
def test_a_wrong_pass_is_named(wrong: Callable[[ir.Graph], ir.Graph], message: str) -> None:
    with pytest.raises(ir.Error, match=message):
        convc.compile(small(), passes=(*PIPELINE, wrong))


def test_an_exception_in_a_pass_keeps_its_type_and_names_the_pass() -> None:
    def faulty(graph: ir.Graph) -> ir.Graph:
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing") as raised:
        convc.compile(small(), passes=(*PIPELINE, functools.partial(faulty)))
    assert raised.value.__notes__ == ["raised in pass faulty"]


def test_passes_may_be_anything_that_can_be_called() -> None:
    class Same:
        def __call__(self, graph: ir.Graph, twice: bool = False) -> ir.Graph:
            return graph

    passes = (Same(), functools.partial(functools.partial(Same()), twice=True), PIPELINE[0])
    names = [name for name, _ in run_passes(small(), passes)]
    assert names == ["Same", "Same", PIPELINE[0].__name__]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONVC_NUM_THREADS", "many"),
        ("CONVC_NUM_THREADS", "0"),
        ("CONVC_SPECIALISATIONS", "-1"),
        ("CONVC_SPIN_US", "9" * 5000),
        ("CONVC_DEBUG", "6"),
    ],
)
def test_a_wrong_value_of_a_variable_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    message = f"{name}='{value[:20]}.* must be a whole number from [01] to"
    with pytest.raises(convc.InputError, match=message):
        settings.default_threads() if name == "CONVC_NUM_THREADS" else settings.number(name)
    monkeypatch.setenv(name, " ")
    assert settings.number("CONVC_SPIN_US") == 50


# ---------------------------------------------------------------- training


def trainable() -> ir.Graph:
    b = ir.Builder("trainable")
    y = b.dense(b.input("x", "f32[1, 2]"), b.weight("w", np.ones((2, 1), np.float32)))
    b.output("loss", b.sum(y * y))
    return b.build()


@pytest.mark.parametrize("momentum", [1.0, -0.1, np.nan, np.inf, True, "0.9", None])
def test_a_momentum_is_in_0_to_1(momentum: Any) -> None:
    with pytest.raises(convc.InputError, match=r"momentum=.* must be a number in \[0, 1\)"):
        Trainer(trainable(), momentum=momentum)


def test_a_trainer_names_an_argument_that_it_does_not_take() -> None:
    for name in ("lr", "rate", "learning_rate"):
        with pytest.raises(convc.InputError, match=rf"no argument {name}=; each step.*step\(batch"):
            Trainer(trainable(), **{name: 0.1})
    with pytest.raises(convc.InputError, match="momentun=; did you mean 'momentum'"):
        Trainer(trainable(), momentun=0.9)
    with pytest.raises(convc.InputError, match="zzz=; there are graph, loss, momentum, wrt, thr"):
        Trainer(trainable(), zzz=1)
    assert Trainer(trainable(), threads=1, accuracy="exact").model.options.accuracy == "exact"


def test_trainers_take_graphs_and_states_and_digits_fractions() -> None:
    trainer = Trainer(trainable(), threads=1)
    with pytest.raises(convc.InputError, match=r"graph must be an ir\.Graph, not 3"):
        trainer.trained(3)  # type: ignore[arg-type]
    with pytest.raises(convc.InputError, match="must have w, velocity_w, not nothing"):
        trainer.resume({})
    for fraction in (1.0, -0.1):
        with pytest.raises(convc.InputError, match=rf"fraction in \[0, 1\), not {fraction}"):
            load_digits(held_out=fraction)


def test_a_rate_is_a_finite_number() -> None:
    trainer, batch = Trainer(trainable(), momentum=0), {"x": np.ones((1, 2), np.float32)}
    for rate in (np.nan, -np.inf, "0.1", None, True):
        with pytest.raises(convc.InputError, match=r"rate=.* must be a finite number"):
            trainer.step(batch, rate)  # type: ignore[arg-type]
    assert trainer.step(batch, 0.1) == 4
    assert trainer.step(batch, 0) == pytest.approx(1.44)
