"""What ``compile`` refuses, and that it says what would be right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from convc.train.lenet import lenet


@pytest.fixture(scope="module")
def graph() -> ir.Graph:
    return lenet(channels=(5, 17), hidden=20)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"algorithms": {"conv1": "magic"}}, convc.AlgorithmError, "no algorithm 'magic'; one of"),
        ({"algorithms": {"conv1": "sweep"}}, convc.AlgorithmError, "sweep does not apply: only"),
        ({"algorithms": {"conv9": "direct"}}, convc.AlgorithmError, "no node 'conv9'; nodes: "),
        ({"target": "avx1024"}, convc.TargetError, "unknown target 'avx1024'; one of avx512"),
        ({"accuracy": "exakt"}, convc.AlgorithmError, "accuracy='exakt' is unknown; one of fast"),
        ({"threads": 0}, convc.InputError, "threads=0: give 1 or more"),
        ({"threads": -3}, convc.InputError, "threads=-3"),
    ],
)
def test_a_wrong_choice_is_refused_with_the_right_ones(
    graph: ir.Graph, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        convc.compile(graph.bind({"N": 1}), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"algorithms": {"conv1": "magic"}}, convc.AlgorithmError, "no algorithm 'magic'; one of"),
        ({"algorithms": {"conv9": "direct"}}, convc.AlgorithmError, "no node 'conv9'; nodes: "),
        ({"accuracy": "medium"}, convc.AlgorithmError, "accuracy='medium' is unknown; one of fast"),
    ],
)
def test_it_is_refused_before_sizes_are_known(
    graph: ir.Graph, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        convc.compile(graph, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ({"n": 3}, ir.ShapeError, "no symbolic extent 'n'"),
        ({"N": -3}, ir.ShapeError, "N=-3; give an int of 0 or more"),
        ({"N": 2.0}, ir.ShapeError, r"N=2\.0; give an int"),
        ({}, convc.InputError, "needs sizes for N; give each as an int, as in N=8"),
    ],
)
def test_a_model_has_stages_for_all_its_sizes_and_no_others(
    graph: ir.Graph, sizes: dict[str, int], error: type[Exception], message: str
) -> None:
    model = convc.compile(graph)
    for what in (model.stages, model.executable):
        with pytest.raises(error, match=message):
            what(**sizes)
    fixed = convc.compile(graph.bind({"N": 1}))
    for what in (fixed.stages, fixed.executable):
        with pytest.raises(ir.ShapeError, match=r"extent 'N' \(there are: none\)"):
            what(N=1)


@pytest.mark.parametrize("sizes", [{}, {"N": 1}], ids=["symbolic", "static"])
def test_code_for_another_machine_is_not_run(graph: ir.Graph, sizes: dict[str, int]) -> None:
    other = "plain" if "neon" in available() else "neon"
    with pytest.raises(convc.TargetError, match=f"code for {other} does not run on this machine"):
        convc.compile(graph.bind(sizes), target=other)


def test_parts_of_a_composite_op_are_to_be_named() -> None:
    b = ir.Builder("tiled")
    x = b.input("x", "f32[N, 2, 12, 12]")
    w = b.weight("w", np.ones((3, 2, 3, 3, 2, 1), np.float32))
    b.output("y", b.tiled_conv(x, w, name="tc"))
    images = np.ones((1, 2, 12, 12), np.float32)
    message = (
        "node 'tc' is expanded into tc.*; name those that im2col computes: tc.conv, tc.conv_1$"
    )
    with pytest.raises(convc.AlgorithmError, match=message):
        convc.compile(b.build(), algorithms={"tc": "im2col"})(images)
    with pytest.raises(convc.AlgorithmError, match=r"none of them - tc\.conv: the stride is not 1"):
        convc.compile(b.build(), algorithms={"tc": "fft"})(images)
    model = convc.compile(b.build(), algorithms={"tc.conv": "im2col", "tc.conv_1": "im2col"})
    np.testing.assert_allclose(model(images), 18, rtol=1e-5)
    chosen = model.stages(N=1).algorithms.values()
    assert [algorithm.name for algorithm in chosen].count("im2col") == 2
    with pytest.raises(convc.AlgorithmError, match=r"no node 'tcs\.conv'; nodes: tc$"):
        convc.compile(b.build(), algorithms={"tcs.conv": "im2col"})


def test_without_the_pass_that_expands_composite_ops_they_are_not_computed() -> None:
    b = ir.Builder("tiled")
    w = b.weight("w", np.ones((3, 2, 3, 3, 2, 1), np.float32))
    b.output("y", b.tiled_conv(b.input("x", "f32[1, 2, 12, 12]"), w, name="tc"))
    message = "node 'tc': no algorithm computes tiled_conv.*have expand_composites among the passes"
    with pytest.raises(convc.AlgorithmError, match=message):
        convc.compile(b.build(), passes=())


def test_the_environment_names_the_target(graph: ir.Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_TARGET", available()[-1])
    assert convc.compile(graph.bind({"N": 1})).options.target.name == available()[-1]
    monkeypatch.setenv("CONVC_TARGET", "typo")
    with pytest.raises(convc.TargetError, match="unknown target 'typo'"):
        convc.compile(graph.bind({"N": 1}))


def one_op(op: Callable[[ir.Builder, ir.Value], ir.Value], type: str) -> ir.Graph:
    b = ir.Builder("large")
    b.output("y", op(b, b.input("x", type)))
    return b.build()


@pytest.mark.parametrize(
    "graph",
    [
        one_op(lambda b, x: b.relu(b.scale(x, 2.0)), "f32[1000000, 1000000]"),
        one_op(lambda b, x: b.average_pool(x, 2), "f32[1, 1, 1000000, 1000000]"),
        one_op(lambda b, x: b.sum(x), "f64[1000000, 1000000]"),
        one_op(lambda b, x: b.sum(b.max_pool(x, 3, 1, 1)), "f32[4096, 64, 2048, 2048]"),
    ],
    ids=["pointwise", "average", "only an input", "pool"],
)
def test_what_no_machine_can_hold_is_refused_before_it_is_made(graph: ir.Graph) -> None:
    with pytest.raises(convc.CapacityError, match=r"GiB, and this machine has .* GiB"):
        convc.compile(graph)


def test_what_does_not_fit_together_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that fit one by one."""
    monkeypatch.setattr("convc.plan.total_bytes", lambda: 4000)
    with pytest.raises(convc.CapacityError, match=r"the plan needs .* the largest value is"):
        product = one_op(lambda b, x: b.sum(b.matmul(b.exp(x), x), 0), "f32[30, 30]")
        convc.compile(product)


def test_types_beyond_any_address_are_refused_by_the_graph() -> None:
    with pytest.raises(ir.ShapeError, match="larger than"):
        one_op(lambda b, x: b.relu(x), "f32[1000000, 1000000, 1000000]")
