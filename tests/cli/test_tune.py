"""``convc tune``: what it prints, writes and refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest

import convc
import ir
from convc import select as selection
from convc.algorithms import Direct
from convc.backend.target import available, target_named
from convc.tuning import tuner
from convc.tuning.database import database
from tests.cli.commands import network, refused, status
from tests.examples import select


@pytest.fixture(autouse=True)
def times(monkeypatch):
    """Few algorithms; seconds of each, 1 ms where the test says nothing. Nothing is timed."""
    slow = ("winograd4", "winograd6", "fft", "im2col", "separable")
    few = tuple(a for a in selection.algorithms() if not a.name.startswith(slow))
    monkeypatch.setattr(selection, "algorithms", lambda: few)
    given = {"direct": 1e-3, "direct_plain": 5e-4}

    def measure(contenders, others, rounds, seconds):
        return {name: given.get(name, 1e-3) for name in contenders}

    monkeypatch.setattr(tuner, "measure", measure)
    return given


def test_tune_explains_itself(capsys):
    assert status("tune", "--help") == 0
    said = capsys.readouterr().out
    assert "convc tune" in said.split("example:")[1]


def test_tune_shows_what_changed_and_compilation_follows(model, times, capsys):
    before = select(convc.compile(network().bind({"N": 1})).stages().optimised, target_named())[
        "relu1"
    ]
    other = "direct_plain" if before.name != "direct_plain" else "direct"
    times[other] = 1e-5
    assert status("tune", model, "--threads", "1") == 0
    said = capsys.readouterr()
    line = next(line for line in said.out.splitlines() if line.startswith("relu1"))
    assert [before.name, other] == line.split()[2:4]
    assert "10 us" in line and line.split()[-1].endswith("x")
    assert f"database {database()}" in said.out
    assert f"relu1: {other}" in said.err and "measurements" in said.err
    chosen = convc.compile(network().bind({"N": 1}), 1).stages().algorithms
    assert chosen["relu1"].name == other


def test_tune_prints_json(model, capsys):
    assert status("tune", model, "--json", "--threads", "2", "--sizes", "N=3") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["threads"] == 2 and found["target"] == available()[0]
    assert found["measured"] == len(database().rows()) > 1
    assert found["wrong"] == found["left"] == []
    lines = {line["node"]: line for line in found["nodes"]}
    assert lines["relu1"]["measured"] and lines["relu1"]["speedup"]
    assert "f32[3, 1, 8, 8]" in database().rows()[0].signature


def test_tune_measures_gradients_when_asked(model, capsys):
    assert status("tune", model, "--gradients", "--threads", "1") == 0
    signatures = {row.signature.split(" ")[0] for row in database().rows()}
    assert "conv_weight_grad" in signatures
    assert "\nconv_weight_grad " in capsys.readouterr().out


def test_tune_goes_on_where_the_budget_ended(model, capsys):
    assert status("tune", model, "--budget", "0") == 0
    assert "no time left for: relu1" in capsys.readouterr().out
    assert not database().rows()


def test_times_travel_as_a_file(model, tmp_path, capsys, monkeypatch):
    file = tmp_path / "times.jsonl"
    assert status("tune", model, "--export", file, "--threads", "1") == 0
    text = file.read_text()
    assert text.count("\n") == len(database().rows()) > 1
    graph = network().bind({"N": 1})
    chosen = {n: a.name for n, a in convc.compile(graph, 1).stages().algorithms.items()}
    monkeypatch.setenv("CONVC_CACHE", str(tmp_path / "elsewhere"))
    model_by_file = convc.compile(graph, 1, tuning=file)
    assert {n: a.name for n, a in model_by_file.stages().algorithms.items()} == chosen
    assert status("tune", "--import", file, "--export", tmp_path / "again.jsonl") == 0
    assert (tmp_path / "again.jsonl").read_text() == text
    assert len(database().rows()) == text.count("\n")
    capsys.readouterr()
    assert status("tune", "--import", file, "--json") == 0
    assert "measurements" in json.loads(capsys.readouterr().out)["database"]


def test_only_the_model_s_own_times_are_exported(model, tmp_path):
    assert status("tune", model, "--sizes", "N=1", "--threads", "1") == 0
    file = tmp_path / "times.jsonl"
    assert status("tune", model, "--sizes", "N=2", "--threads", "1", "--export", file) == 0
    assert 0 < file.read_text().count("\n") < len(database().rows())


class Cheat(Direct):
    """Leaves out the epilogue."""

    def __init__(self):
        super().__init__()
        self.name = "cheat"

    def lower(self, site, into):
        super().lower(replace(site, epilogue=()), into)


def test_wrong_numbers_are_a_failed_check(model, capsys, monkeypatch):
    every = (*selection.algorithms(), Cheat())
    monkeypatch.setattr(selection, "algorithms", lambda: every)
    assert status("tune", model, "--threads", "1") == 1
    assert "WRONG: node 'relu1': cheat" in capsys.readouterr().out


class Broken(Direct):
    """Fails for one of two ops."""

    def __init__(self):
        super().__init__("plain")
        self.name = "broken"

    def lower(self, site, into):
        if site.op.name == "conv":
            raise ValueError("no such axis")
        super().lower(site, into)


def test_an_algorithm_that_fails_is_a_failed_check_and_others_are_measured(
    model, capsys, monkeypatch
):
    every = (*selection.algorithms(), Broken())
    monkeypatch.setattr(selection, "algorithms", lambda: every)
    assert status("tune", model, "--threads", "1", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["broken"][0]["algorithm"] == "broken" and found["left"] == found["wrong"] == []
    assert found["broken"][0]["error"] == "ValueError: no such axis"
    assert found["measured"] == len(database().rows()) > 1
    assert status("tune", model, "--threads", "1") == 1
    said = capsys.readouterr().out
    assert "BROKEN: node 'relu1': broken cannot be measured: ValueError: no such axis" in said


def test_how_far_it_has_come_is_told_of_one_op_too(tmp_path, capsys, monkeypatch):
    b = ir.Builder("one")
    w = b.weight("w", np.ones((16, 16, 3, 3), np.float32))
    b.output("y", b.conv(b.input("x", "f32[1, 16, 8, 8]"), w, name="y"))
    b.build().save(tmp_path / "one.ir")
    assert status("tune", tmp_path / "one.ir", "--threads", "1") == 0
    said = capsys.readouterr().err.splitlines()
    shares = [int(line.split()[-1].rstrip("%")) for line in said if line.endswith("%")]
    assert shares[0] == 0 < shares[-1] < 100 and shares == sorted(shares)
    assert said[-1] == f"{len(shares)} measurements"
    every, new = selection.algorithms(), Direct()
    new.name = "new"
    monkeypatch.setattr(selection, "algorithms", lambda: (*every, new))
    assert status("tune", tmp_path / "one.ir", "--threads", "1") == 0
    assert capsys.readouterr().err.splitlines()[-1] == "1 measurement"


def test_an_interrupt_ends_with_130_and_keeps_what_is_measured(model, capsys, monkeypatch):
    measure = tuner.measure

    def interrupted(contenders, *how):
        if database().rows():
            raise KeyboardInterrupt
        return measure(contenders, *how)

    monkeypatch.setattr(tuner, "measure", interrupted)
    assert status("tune", model) == 130
    assert "is kept" in capsys.readouterr().err
    assert len(database().rows()) == 1


def test_tune_refuses_what_it_cannot_do(model, tmp_path, capsys):
    assert "MODEL" in refused(capsys, "tune")
    assert "seconds" in refused(capsys, "tune", model, "--budget", "soon")
    assert "none.jsonl" in refused(capsys, "tune", "--import", tmp_path / "none.jsonl")
    assert "cannot be measured" in refused(capsys, "tune", model, "--target", "neon")
    assert "there are: N" in refused(capsys, "tune", model, "--sizes", "M=1")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    assert "line 1" in refused(capsys, "tune", model, "--import", tmp_path / "bad.jsonl")
    assert "no folder" in refused(capsys, "tune", model, "--export", tmp_path / "no/file")
