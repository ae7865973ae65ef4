"""``convc check``: right code passes, wrong code is named."""

import json
import re
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

import convc
import ir
from convc import images
from convc.algorithms import bodies
from convc.passes import optimised
from convc.tools import accuracy, arguments, blas, memory, slopes, verification
from ir.loops.nodes import Const
from tests.cli.commands import network, refused, status


def test_check_finds_a_good_model_good(model, capsys):
    assert status("check", model) == 0
    said = capsys.readouterr().out
    assert "conv+bias+relu" in said
    assert "grad_conv1.weight" in said
    assert "agree with float64" in said.splitlines()[-1]
    assert "WRONG" not in said


def test_check_prints_json_of_every_op_and_output(model, arrays, capsys):
    assert status("check", model, arrays[0][0], "--json", "--no-gradients") == 0
    found = json.loads(capsys.readouterr().out)
    (section,) = found["sections"]
    assert found["passed"]
    assert section["name"] == "forward"
    assert {node["op"] for node in section["nodes"]} >= {"conv+bias+relu", "max_pool", "dense"}
    assert {output["type"] for output in section["outputs"]} == {"f32[3, 5]", "f32[]"}
    assert all(0 <= node["error"] <= node["allowed"] for node in section["nodes"])


def test_check_finds_a_derivative_that_is_none(model, capsys, monkeypatch):
    """Native code and interpreter agree: both compute what the op says."""
    right = ir.ops.Relu.derivative

    def wrong(self, b, x, y, g):
        return b.scale(right(self, b, x, y, g), 1.01)

    assert status("check", model, "--json") == 0
    assert json.loads(capsys.readouterr().out)["slopes"]["deviation"] <= slopes.TOLERANCE
    monkeypatch.setattr(ir.ops.Relu, "derivative", wrong)
    assert status("check", model) == 1
    *_, told, summary = capsys.readouterr().out.strip().split("\n\n")
    assert summary.startswith("WRONG: gradients, as ops give them, though native code agrees")
    assert "beside finite differences: WRONG" in told and "(relative deviation " in told
    assert re.search(r"the first op that is wrong by itself is node '\w+' \(relu\)", told)
    assert status("check", model, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is False and "relu" in found["slopes"]["wrong"]
    assert status("check", model, "--no-gradients") == 0
    assert "finite differences" not in capsys.readouterr().out


def test_what_finite_differences_cannot_be_taken_of_is_said(tmp_path, capsys, monkeypatch):
    b = ir.Builder("log")
    x = b.input("x", "f32[2, 5]")
    b.output("y", b.log(x * x * -1.0))
    b.build().save(tmp_path / "log.ir")
    assert status("check", tmp_path / "log.ir") == 0
    assert "not compared, graph 'log': output 'y' is not finite" in capsys.readouterr().out
    monkeypatch.setattr(slopes, "COPIES", 2**60)
    assert status("check", tmp_path / "log.ir") == 0
    assert "not compared, which takes about" in capsys.readouterr().out


def test_check_takes_sizes_and_a_seed(model, capsys):
    assert status("check", model, "--sizes", "N=3", "--seed", 4, "--no-gradients") == 0
    assert "f32[3, 3, 8, 8]" in capsys.readouterr().out
    assert "there are: N" in refused(capsys, "check", model, "--sizes", "M=3")


def test_check_names_the_op_whose_code_is_wrong(model, capsys, monkeypatch):
    right = bodies.BODIES[ir.ops.Add]

    def wrong(op, dtype, args):
        return right(op, dtype, args) * Const(1.001, dtype)

    monkeypatch.setitem(bodies.BODIES, ir.ops.Add, wrong)
    assert status("check", model, "--no-gradients") == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("WRONG: 1 of")
    assert "(add, pointwise)" in last


def test_check_notices_nan_and_a_wrong_pass(model, capsys, monkeypatch):
    def no_number(op, dtype, args):
        return Const(np.nan, dtype)

    with monkeypatch.context() as patch:
        patch.setitem(bodies.BODIES, ir.ops.Add, no_number)
        assert status("check", model, "--no-gradients") == 1
        assert accuracy.ELSEWHERE in capsys.readouterr().out.splitlines()[-1]

    def without_bias(graph, passes=()):
        nodes = [n.__class__(ir.ops.Relu(), n.inputs[:1], n.outputs)
                 if isinstance(n.op, ir.ops.Bias) else n for n in graph.nodes]  # fmt: skip
        return graph.replace(nodes=tuple(nodes))

    monkeypatch.setattr("convc.model.optimised", without_bias)
    assert status("check", model, "--no-gradients") == 1
    assert "look at the conversions" in capsys.readouterr().out.splitlines()[-1]


def test_check_holds_everything_to_a_given_tolerance(model, capsys):
    assert status("check", model, "--tolerance", "1e-3", "--no-gradients") == 0
    assert status("check", model, "--tolerance", "0", "--no-gradients") == 1
    capsys.readouterr()
    assert "negative" in refused(capsys, "check", model, "--tolerance", "-1")
    assert "must be a number" in refused(capsys, "check", model, "--tolerance", "nan")


def test_check_says_why_it_checks_no_gradients(tmp_path, capsys):
    b = ir.Builder("second")
    logits, labels = b.input("logits", "f32[N, 4]"), b.input("labels", "i64[N]")
    b.output("loss", b.softmax_cross_entropy(logits, labels))
    ir.vjp(b.build(), ["logits"]).save(tmp_path / "second.ir")
    assert status("check", tmp_path / "second.ir") == 0
    assert "no gradients checked" in capsys.readouterr().out
    assert "grad" in refused(capsys, "check", tmp_path / "second.ir", "--gradients")


def test_check_does_without_gradients_where_nothing_is_float(tmp_path, capsys):
    b = ir.Builder("whole")
    b.output("y", b.transpose(b.input("x", "i64[2, 3]"), (1, 0)))
    b.build().save(tmp_path / "whole.ir")
    assert status("check", tmp_path / "whole.ir") == 0
    assert "ok: 1 op and 1 output agree" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_nodes_and_graphs_can_be_checked_from_python(dtype):
    graph = network().bind({"N": 2}).with_dtype(dtype)
    inputs = accuracy.random_inputs(graph)
    nodes = verification.check_nodes(graph, inputs, threads=1)
    assert [found.node for found in nodes] == [node.name for node in graph.nodes]
    outputs = verification.check_graph(graph, inputs, threads=1)
    assert [found.output for found in outputs] == ["scores", "loss"]
    assert all(found.passed for found in (*nodes, *outputs))
    assert any(found.error > 0 for found in nodes)


@pytest.mark.parametrize(("result", "passed"), [(1.0, True), (0.0, True), (3.0, False)])
def test_a_decision_that_rounding_may_flip_is_no_fault(result, passed, monkeypatch):
    """The gradient of a rectifier just above 0 is 1, and 0 for weights a little smaller."""
    ones = np.ones(64, np.float32)
    b = ir.Builder("close")
    gates = b.input("x", "f32[64]") * b.weight("w", ones)
    b.output("y", b.relu(b.shift(gates, -0.999999)))
    graph, inputs = ir.vjp(b.build(), ["x"]), {"x": ones, "grad_y": ones}
    results = convc.compile(graph, 1).run(inputs)
    np.testing.assert_array_equal(results["grad_x"], ones)
    results["grad_x"][5] = result
    model = SimpleNamespace(run=lambda inputs: results)
    monkeypatch.setattr(convc, "compile", lambda *args, **how: model)
    found = {each.output: each for each in verification.check_graph(graph, inputs)}
    assert found["grad_x"].passed == passed


def test_accuracy_wants_nan_and_infinity_where_the_reference_has_them():
    reference = np.array([1.0, np.nan, np.inf, 1e300])
    right = np.array([1.0, np.nan, np.inf, np.inf], np.float32)
    assert accuracy.accuracy(right, reference, 0.0).passed
    for place, value in enumerate([np.nan, 0.0, -np.inf, 1.0]):
        wrong = right.copy()
        wrong[place] = value
        found = accuracy.accuracy(wrong, reference, 1e30)
        assert not found.passed
        assert found.note == accuracy.ELSEWHERE


def test_accuracy_is_relative_to_the_terms_of_a_sum():
    x, w = np.array([[1e4, -1e4]]), np.array([[1.0], [1.0]])
    op = ir.ops.Dense()
    assert accuracy.magnitudes(op, [x, w], [x @ w]) == [2e4]
    assert accuracy.magnitudes(ir.ops.Sub(), [x, x], [x - x]) == [2e4]
    assert accuracy.magnitudes(ir.ops.Relu(), [x], [np.maximum(x, 0)]) == [1e4]


@pytest.mark.parametrize("op", ir.OPS, ids=lambda op: op.name)
def test_the_magnitude_of_every_op_is_at_least_its_result(op):
    for example in op.examples():
        arrays = example.arrays(np.random.default_rng(0), np.float64)
        results = example.op.evaluate(*arrays)
        scales = accuracy.magnitudes(example.op, arrays, results)
        for result, scale in zip(results, scales, strict=True):
            assert np.isfinite(scale)
            assert scale >= accuracy.peak(result)


def test_the_magnitude_of_fused_steps_follows_what_goes_into_each_result():
    x, g = np.linspace(-5, 5, 101), np.full(101, 1e-6)
    arrays = [x, g]
    steps = ((ir.ops.Tanh(), (0,)), (ir.ops.Mul(), (2, 1)))
    (scale,) = accuracy.magnitudes(ir.ops.Elementwise(2, steps, (3,)), arrays, [np.tanh(x) * g])
    assert 1e-6 <= scale <= 4e-6
    # 1 - tanh(x) cancels: its error is that of the tanh
    steps = ((ir.ops.Tanh(), (0,)), (ir.ops.Sub(), (1, 2)))
    y = 1 - np.tanh(x[-1:])
    (scale,) = accuracy.magnitudes(ir.ops.Elementwise(2, steps, (3,)), [x[-1:], np.ones(1)], [y])
    assert 0.5 <= scale <= 2


def test_random_inputs_respect_what_they_are_used_for():
    b = ir.Builder("used")
    p, labels = b.input("p", "f32[2, 3, 4]"), b.input("labels", "i64[8]")
    b.output("loss", b.cross_entropy(p, b.reshape(labels, (2, 4))))
    graph = b.build()
    for seed in range(3):
        inputs = accuracy.random_inputs(graph, seed)
        assert inputs["p"].min() > 0
        assert 0 <= inputs["labels"].min() <= inputs["labels"].max() < 3


def test_check_says_how_far_it_is(model, capsys):
    assert status("check", model) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "forward: the whole model"
    assert re.fullmatch(r"gradients: each of \d+ ops alone", lines[3])
    assert lines[4] == "gradients: finite differences" and len(lines) == 6
    graph, told = network().bind({"N": 2}), []
    inputs = accuracy.random_inputs(graph)
    verification.check_nodes(graph, inputs, threads=1, progress=lambda *event: told.append(event))
    assert [text for text, _ in told] == [f"{node.name} alone" for node in graph.nodes]
    assert [share for _, share in told] == sorted(share for _, share in told)


def test_products_of_matrices_stay_on_one_thread_for_a_while():
    library = blas._library()
    names = [name.format("get") for name in blas.NAMES]
    (get,) = (getattr(library, name) for name in names if hasattr(library, name))
    before = get()
    with pytest.raises(ZeroDivisionError), blas.one_thread():
        assert get() == 1
        raise ZeroDivisionError
    assert get() == before


def test_another_library_than_openblas_is_left_alone(monkeypatch):
    monkeypatch.setattr(blas, "_library", lambda: None)
    with blas.one_thread():
        pass


def test_check_refuses_before_any_work_what_does_not_fit_into_memory(model, capsys, monkeypatch):
    said = refused(capsys, "check", model, "--sizes", "N=100000000")
    assert "GiB of memory, with values in float64" in said
    assert said.endswith("try --sizes N=1 or a machine with more\n")
    graph = network().bind({"N": 4000})
    forward, both = (memory.comparing_bytes(each) for each in (graph, ir.vjp(graph, ["x"])))
    monkeypatch.setattr(memory, "available_bytes", lambda: (forward + both) // 2)
    assert status("check", model, "--sizes", "N=4000") == 2
    said = capsys.readouterr()
    assert "checking gradients of graph 'network'" in said.err and "--no-gradients" in said.err
    assert not said.out and "the whole model" not in said.err
    graph.save(model)  # whose size is fixed
    monkeypatch.setattr(memory, "available_bytes", lambda: forward // 2)
    assert refused(capsys, "check", model).endswith("try a machine with more\n")


def test_check_refuses_a_choice_that_cannot_be_before_any_work(model, capsys):
    for choice, told in {
        "conv1=winogradd": "no algorithm 'winogradd'",
        "conv1=sweep": "does not apply",
        "conv_weight_grad=sweep": "does not apply",
        "conv=direct": "no node 'conv'; did you mean 'conv1'?",
    }.items():
        assert status("check", model, "--algorithm", choice) == 2
        said = capsys.readouterr()
        assert said.err.startswith("convc: error: ") and told in said.err
        assert not said.out


@pytest.mark.parametrize("gradients", [False, True])
def test_the_memory_that_checking_takes_is_known_before(gradients):
    graph = network().bind({"N": 5000})
    graph = ir.vjp(graph, arguments.gradient_names(graph)) if gradients else graph
    better, inputs = optimised(graph), accuracy.random_inputs(graph)

    def traced(call, *args, **more):
        tracemalloc.start()
        try:
            call(*args, **more)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    took = traced(ir.interpret, graph, inputs, "float64")
    assert took / 2 < memory.comparing_bytes(ir.expand(graph)) - memory.COMPILING < 3 * took
    took = traced(verification.check_nodes, better, inputs, threads=1)
    parts = images.pieces(better, True, 1)
    assert took / 2 < memory.checking_bytes(better, parts) - memory.COMPILING < 3 * took


def test_a_limit_of_the_control_group_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = memory.available_bytes()
    assert 0 < free <= memory.total_bytes() and memory.limit_bytes() is None
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.limit_bytes() is None
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    assert memory.available_bytes() == 2000000
    (tmp_path / "memory.stat").write_text("anon 1000000\nfile 2000000\n")
    assert memory.available_bytes() == 4000000
