"""``convc why``: every algorithm that was considered, and the numbers that decided."""

import json

import pytest

import convc
import ir
from convc import select as selection
from convc.algorithms import Direct, Winograd
from convc.backend.target import target_named
from convc.select import algorithms, choices
from convc.tools import why as tool
from convc.tuning import tuner
from convc.tuning.database import database
from convc.tuning.records import REFUSED, Context, signature
from tests.cli.commands import network, refused, status

OTHERS = ("sweep", "outer", "pointwise", "alias", "total")


@pytest.fixture(autouse=True)
def times(monkeypatch):
    """Seconds by algorithm, 1 ms where the test says nothing; nothing is run."""
    given = {}

    def measure(contenders, others, rounds, seconds):
        return {name: given.get(name, 1e-3) for name in contenders}

    monkeypatch.setattr(tuner, "measure", measure)
    monkeypatch.setattr(tool, "peak_rate", lambda *_: 1e12)
    return given


def explained(capsys, *argv):
    """What the command says as JSON, nodes by name and algorithms by name."""
    assert status("why", *argv, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    nodes = {node["node"]: node for node in found["nodes"]}
    for node in nodes.values():
        node["algorithms"] = {each["algorithm"]: each for each in node["algorithms"]}
    return found, nodes


def chosen(node):
    return [name for name, each in node["algorithms"].items() if each["chosen"]]


def test_why_explains_itself(capsys):
    assert status("why", "--help") == 0
    assert "convc why" in capsys.readouterr().out.split("example:")[1]


def test_why_tells_of_every_node_and_every_algorithm(model, capsys):
    found, nodes = explained(capsys, model)
    made = convc.compile(network().bind({"N": 1})).stages()
    assert {name: chosen(node) for name, node in nodes.items()} == {
        name: [algorithm.name] for name, algorithm in made.algorithms.items()
    }
    known = {algorithm.name for algorithm in algorithms()}
    assert all(node["algorithms"].keys() == known for node in nodes.values())
    assert found["peak"] is None and found["accuracy"] == "fast"
    relu = nodes["relu1"]
    assert relu["flops"] == 2 * 3 * 9 * 64 + 2 * 3 * 64 and relu["op"] == "conv+bias+relu"
    direct = relu["algorithms"]["direct"]
    assert direct["measured"] is None and direct["share_of_peak"] is None
    assert direct["rate"] == pytest.approx(relu["flops"] / direct["predicted"])
    assert relu["algorithms"]["sweep"]["remark"] == "only for max_pool, average_pool"
    (choice, *_) = choices(made.optimised, target_named())
    prices = {c.algorithm.name: c.conversions for c in choice.applicable}
    assert prices == {n: each["conversions"] for n, each in relu["algorithms"].items()
                      if each["applicable"]}  # fmt: skip


def test_why_tells_of_all_parts_of_a_composite_op(tmp_path, capsys):
    b = ir.Builder("parts")
    x, w = b.input("x", "f32[2, 4, 6, 6]"), b.input("w", "f32[3, 4, 2, 2, 2, 2]")
    y = b.group_norm(b.relu(x, name="norm.before"), 2, name="norm")
    b.output("y", b.tiled_conv(b.tanh(y, name="after"), w, name="tiled"))
    b.build().save(tmp_path / "parts.ir")
    model = tmp_path / "parts.ir"
    everything = explained(capsys, model)[1]
    norm, tiled = explained(capsys, model, "norm")[1], explained(capsys, model, "tiled")[1]
    assert {"sum", "elementwise"} <= {node["op"] for node in norm.values()}
    assert [node["op"] for node in tiled.values()].count("conv") == 4
    after = explained(capsys, model, "after")[1]  # and what passes have added to it
    assert "after" in after and all(name.split(".")[0] == "after" for name in after)
    assert norm.keys() | tiled.keys() | after.keys() | {"norm.before"} == everything.keys()
    assert "norm.before" not in norm
    measured = explained(capsys, model, "tiled", "--measure", "--threads", "1")[1]
    assert all(any(each["measured"] for each in node["algorithms"].values())
               for node in measured.values())  # fmt: skip


def test_why_as_text_has_a_table_and_the_reasons(model, capsys):
    assert status("why", model, "conv1") == 0
    said = capsys.readouterr().out
    assert said.startswith("relu1: conv+bias+relu (f32[1, 1, 8, 8], const f32[3, 1, 3, 3]")
    assert "pool1" not in said
    (line,) = (line for line in said.splitlines() if line.startswith(">"))
    (name,) = chosen(explained(capsys, model, "relu1")[1]["relu1"])
    assert line.split()[1] == name
    assert "not separable" in said and "for other ops" in said


def test_why_tells_of_every_direction(model, capsys):
    _, nodes = explained(capsys, model, "--gradients")
    assert {"conv", "conv_weight_grad", "conv_input_grad"} <= {
        node["op"].split("+")[0] for node in nodes.values()
    }


def test_why_measures_now_and_keeps_nothing(model, times, capsys, monkeypatch):
    others = [a for a in algorithms() if a.name in OTHERS]
    few = (Direct(), Direct("plain"), Winograd(2), *others)
    monkeypatch.setattr(selection, "algorithms", lambda: few)
    usual = chosen(explained(capsys, model, "relu1")[1]["relu1"])
    other = "direct" if usual != ["direct"] else "direct_plain"
    times[other] = 1e-6
    found, nodes = explained(capsys, model, "relu1", "--measure", "--threads", "1")
    relu = nodes["relu1"]
    assert nodes.keys() == {"relu1"} and found["peak"] > 0
    each = relu["algorithms"][other]
    assert each["measured"] == 1e-6
    assert each["rate"] == pytest.approx(relu["flops"] / 1e-6)
    assert each["share_of_peak"] == pytest.approx(each["rate"] / found["peak"])
    assert chosen(relu) == usual and relu["measured_best"] == other
    assert not database().rows()
    assert status("why", model, "relu1", "--measure", "--threads", "1") == 0
    assert f"by these times {other} would be chosen" in capsys.readouterr().out


def test_why_measures_ops_that_leave_no_choice(model, capsys):
    _, nodes = explained(capsys, model, "pool1", "--measure")
    sweep = nodes["pool1"]["algorithms"]["sweep"]
    assert sweep["measured"] and sweep["remark"] == "the only one"


def test_why_shows_what_the_database_knows(model, capsys):
    graph = convc.compile(network().bind({"N": 1})).stages().optimised
    context = Context.of(target_named(), 1)
    (usual,) = chosen(explained(capsys, model, "relu1", "--threads", "1")[1]["relu1"])
    times = {usual: 0.5, "direct": 0.25, "direct_plain": REFUSED}
    database().record(context, signature(graph, graph.nodes[0]), times)
    _, nodes = explained(capsys, model, "relu1", "--threads", "1")
    found = nodes["relu1"]["algorithms"]
    assert found["direct"]["chosen"] and found["direct"]["measured"] == 0.25
    assert found["direct_plain"]["measured"] is None and "WRONG" in found["direct_plain"]["remark"]
    assert "convc tune --again" in found["direct_plain"]["remark"]
    assert "not in the running: not measured, convc tune does it" in found["winograd2"]["remark"]
    database().record(context, signature(graph, graph.nodes[0]), {"direct": 1e-9})
    _, nodes = explained(capsys, model, "relu1", "--threads", "1")
    remark = nodes["relu1"]["algorithms"]["winograd2"]["remark"]
    assert "predicted over 5 times the best" in remark


def test_why_shows_what_accuracy_and_force_do(model, capsys):
    _, nodes = explained(capsys, model, "relu1", "--accuracy", "exact")
    assert 'accuracy="exact"' in nodes["relu1"]["algorithms"]["winograd2"]["remark"]
    _, nodes = explained(capsys, model, "relu1", "--algorithm", "conv1=winograd2")
    found = nodes["relu1"]["algorithms"]["winograd2"]
    assert found["chosen"] and found["remark"] == "forced"


def test_why_tells_of_an_algorithm_that_fails(model, capsys, monkeypatch):
    def fails(self, site, into):
        raise KeyError("missing") if self.name == "winograd2" else ir.ShapeError("too\n odd")

    usual = chosen(explained(capsys, model, "relu1")[1]["relu1"])
    monkeypatch.setattr(Winograd, "lower", fails)
    _, nodes = explained(capsys, model, "relu1")
    relu = nodes["relu1"]["algorithms"]
    assert relu["winograd2"]["remark"] == "cannot be lowered: KeyError: 'missing'"
    assert relu["winograd4"]["remark"] == "cannot be lowered: ShapeError: too odd"
    assert relu["winograd2"]["workspace"] is None and relu["winograd2"]["predicted"] > 0
    assert relu["direct"]["workspace"] is not None and chosen(nodes["relu1"]) == usual
    assert status("why", model, "relu1") == 0
    assert "cannot be lowered" in capsys.readouterr().out


def test_why_refuses_what_it_cannot_explain(model, capsys):
    assert "'relu1'?" in refused(capsys, "why", model, "relu")
    assert "NODE=NAME" in refused(capsys, "why", model, "--algorithm", "direct")
    assert "does not apply" in refused(capsys, "why", model, "--algorithm", "conv1=sweep")
    assert "does not run on" in refused(capsys, "why", model, "--measure", "--target", "neon")
    assert status("why", model, "relu1", "--target", "neon") == 0
