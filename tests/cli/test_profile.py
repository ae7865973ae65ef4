"""``convc profile``: the steps of a model, what they take, and a trace of them."""

import json
from itertools import pairwise

import pytest

import convc
import ir
from tests.cli.commands import network, refused, status


def profile(capsys, *argv):
    assert status("profile", *argv, "--runs", 3, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_every_step_has_its_time(model, capsys):
    found = profile(capsys, model, "--sizes", "N=2")
    plan = convc.compile(network(), 1).stages(N=2).plan
    assert [(s["node"], s["algorithm"]) for s in found["steps"]] == [
        (step.node, step.algorithm) for step in plan.steps
    ]
    assert found["inputs"] == {"x": "f32[2, 1, 8, 8]", "labels": "i64[2]"}
    assert found["total"] == pytest.approx(sum(step["seconds"] for step in found["steps"]))
    assert sum(step["share"] for step in found["steps"]) == pytest.approx(1)
    assert all(step["seconds"] >= 0 < step["bytes"] for step in found["steps"])
    assert min(found["peak"], found["whole"]) > 0


def test_rates_are_those_of_the_nodes(model, capsys):
    found = profile(capsys, model)
    graph = convc.compile(network(), 1).stages(N=1).optimised
    for node in graph.nodes:
        steps = [s for s in found["steps"] if s["node"] == node.name and s["rate"]]
        if steps:
            flops = node.op.cost(*(graph.types[name] for name in node.inputs)).flops
            spent = sum(step["seconds"] for step in steps)
            assert [s["rate"] for s in steps] == pytest.approx([flops / spent] * len(steps))
            assert steps[0]["share_of_peak"] == pytest.approx(steps[0]["rate"] / found["peak"])
    assert all(s["rate"] is None for s in found["steps"] if s["algorithm"] == "convert")


def test_a_double_has_half_the_peak(tmp_path, capsys):
    b = ir.Builder("wide")
    b.output("y", b.relu(b.input("x", "f64[1000]")))
    b.build().save(tmp_path / "wide.ir")
    found = profile(capsys, tmp_path / "wide.ir")
    (step,) = found["steps"]
    if step["rate"]:
        assert step["share_of_peak"] == pytest.approx(2 * step["rate"] / found["peak"])


def test_the_table(capsys):
    assert status("profile", "zoo:autoencoder", "--runs", 1, "--gradients") == 0
    said = capsys.readouterr().out
    assert "conv_weight_grad" in said
    assert "of the FMA peak" in said.splitlines()[-1]


@pytest.fixture
def traced(model, tmp_path, capsys):
    """What a trace holds, and the profile printed with it."""
    file = tmp_path / "trace.json"
    found = profile(capsys, model, "--trace", file)
    return json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail), found


def test_a_trace_has_the_steps_in_a_row(traced):
    trace, found = traced
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(spans) == len(found["steps"])
    for event, step in zip(spans, found["steps"], strict=True):
        assert event["name"] == f"{step['node']} {step['algorithm']}"
        assert event["args"]["step"] == step["step"]
    for event, after in pairwise(spans):
        assert event["ts"] + event["dur"] <= after["ts"] + 1e-6
    assert spans[0]["args"]["op"] == "conv+bias+relu"


def test_a_trace_is_of_the_format_of_chrome(traced):
    """Complete events ("X") and metadata ("M"), with the fields that their kind must have."""
    trace, _ = traced
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str) and event["name"]
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
        else:
            assert event["ph"] == "X"
            assert min(event["ts"], event["dur"]) >= 0
    kinds = [event["ph"] for event in trace["traceEvents"]]
    assert kinds[:2] == ["M", "M"] and set(kinds[2:]) == {"X"}


def test_a_trace_counts_flops_and_bytes(traced):
    trace, found = traced
    graph = convc.compile(network(), 1).stages(N=1).optimised
    flops = dict.fromkeys((node.name for node in graph.nodes), 0)
    for event, step in zip(trace["traceEvents"][2:], found["steps"], strict=True):
        counts = event["args"]
        assert counts["bytes"] == step["bytes"] > 0
        if event["dur"]:
            assert counts["GB/s"] == pytest.approx(counts["bytes"] / event["dur"] / 1e3)
        if "flops" in counts:
            flops[step["node"]] += counts["flops"]
    for node in graph.nodes:
        want = node.op.cost(*(graph.types[name] for name in node.inputs)).flops
        assert flops[node.name] in (0, pytest.approx(want, abs=2))  # 0: it took no time at all
    assert flops["relu1"] > 0


def test_a_file_that_cannot_be_written_is_named(model, tmp_path, capsys):
    nowhere = tmp_path / "no" / "trace.json"
    assert str(nowhere) in refused(capsys, "profile", model, "--runs", 1, "--trace", nowhere)
