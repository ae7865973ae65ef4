"""Batches image by image in the tools, in objects and within a budget of memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import target_named
from convc.model import Options, stages
from convc.select import choices
from convc.tools import show_plot
from convc.tools.compile import compile_object
from convc.tools.table import seconds
from convc.tools.verification import check_nodes
from tests.cli.commands import status
from tests.test_aot import needs_cc, run_in_c
from tests.test_image_cuts import large
from tests.test_images import (
    GRAPHS,
    Make,
    Net,
    compiled,
    cut_at,
    each_cut,
    improved,
    inputs_of,
    near,
    planned,
    residual,
    shared,  # noqa: F401, a fixture of all these tests too
)

# ---------------------------------------------------------------- how it is shown


@pytest.fixture
def model(tmp_path: Path) -> Path:
    large().save(tmp_path / "large.ir")
    return tmp_path / "large.ir"


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert status(*argv) == 0
    return str(capsys.readouterr().out)


def test_show_says_what_runs_for_each_image(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(large())
    assert plan.images is not None
    shown = said(capsys, "show", model, "--at", "plan")
    assert "one image after the other, 3 times" in shown
    assert "arena for an image, of each thread" in shown
    rows = [line.split() for line in shown.splitlines()]
    for number, step in enumerate(plan.images.steps):
        (row,) = (row for row in rows if row[:2] == [f"i{number}", step.node])
        assert row[-3::-1][: len(step.reads)] == [f"i{slot}" for slot in reversed(step.reads)]
    assert ["i0", "x", "input", str(8 * 128 * 128 * 4), "-", "in", "slot", "0"] in rows
    algorithms = said(capsys, "show", model, "--at", "algorithms")
    assert "3 x conv+bias+relu  f32[1, 8, 128, 128]" in algorithms and "of one image" in algorithms
    for stage in ("plan", "algorithms"):
        whole = said(capsys, "show", model, "--at", stage, "--no-by-image")
        assert "image" not in whole and "3 x" not in whole
    made = choices(improved(large()), target_named(), by_image=True)
    predicted = sum(each.chosen.cost * (each.piece.images or 1) for each in made)
    assert seconds(predicted) in said(capsys, "show", model, "--at", "passes", "--no-diff")
    loops = said(capsys, "show", model, "--at", "loops")
    assert "i0 " in loops and loops.count("kernel max_pool(") == 1


@pytest.mark.parametrize("make", [large, lambda: residual(2)])
def test_the_memory_of_a_cut_graph_is_drawn(
    make: Callable[[], ir.Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all nodes run for each image, and no step is left."""
    pytest.importorskip("matplotlib")
    graph = make()
    for _ in each_cut(graph, graph.inputs["x"].static_shape[0], monkeypatch):
        plan = planned(graph)
        assert sum(plan.alive[:1]) <= plan.live_bytes
        show_plot.draw(plan, "title", tmp_path / "plan.svg")
    assert (tmp_path / "plan.svg").stat().st_size > 1000


def test_the_profile_of_a_cut_graph(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each step as the plan numbers it; a span for each time it ran."""
    trace = tmp_path / "trace.json"
    found = json.loads(said(capsys, "profile", model, "--runs", 2, "--json", "--trace", trace))
    plan = planned(large())
    assert [s["step"] for s in found["steps"]] == [
        label for label, _ in plan.numbered() if "p" not in label
    ]
    assert [s["times"] for s in found["steps"]] == [
        3 if s["step"].startswith("i") else 1 for s in found["steps"]
    ]
    spans = [e for e in json.loads(trace.read_text())["traceEvents"] if e["ph"] == "X"]
    for step in found["steps"]:
        own = [event["args"] for event in spans if event["args"]["step"] == step["step"]]
        assert len(own) == step["times"]
        assert sum(each["bytes"] for each in own) == step["bytes"]
    for event in spans:
        if "flops" in event["args"] and event["dur"]:
            rate = event["args"]["flops"] / event["dur"] / 1e3
            assert event["args"]["GFLOP/s"] == pytest.approx(rate)
    assert "3 x: runs for one image" in said(capsys, "profile", model, "--runs", 1)
    whole = said(capsys, "profile", model, "--runs", 1, "--no-by-image")
    assert "images" not in whole and "i0" not in whole


def test_why_is_of_one_image(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "max_pool: 3 x max_pool (f32[1, 8" in said(capsys, "why", model, "max_pool")
    assert "f32[3, 8, 128, 128]" in said(capsys, "why", model, "max_pool", "--no-by-image")
    found = json.loads(said(capsys, "why", model, "--json"))
    assert [node["images"] for node in found["nodes"]][:: len(found["nodes"]) - 1] == [3, None]
    flops = {node["node"]: node["flops"] * (node["images"] or 1) for node in found["nodes"]}
    whole = json.loads(said(capsys, "why", model, "--json", "--no-by-image"))
    assert flops == {node["node"]: node["flops"] for node in whole["nodes"]}


def test_times_are_of_what_is_run(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one image where that is run, of the batch where that is; both may be known."""
    rows = {}
    for how in ("--by-image", "--no-by-image"):
        exported = tmp_path / f"{how}.jsonl"
        shown = said(
            capsys, "tune", model, how, "--budget", 2, "--threads", 1, "--export", exported
        )
        assert ("3 x conv" in shown) is (how == "--by-image")
        rows[how] = exported.read_text()
    assert "f32[1, 8, 128, 128]" in rows["--by-image"]
    assert "f32[3, 8, 128, 128]" not in rows["--by-image"]
    assert "f32[3, 8, 128, 128]" in rows["--no-by-image"]
    graph = large()
    tuned = convc.compile(graph, threads=1, tuning=tmp_path / "--by-image.jsonl")
    inputs = inputs_of(graph)
    near(tuned.run(inputs), ir.interpret(graph, inputs, "float64"))


def test_check_compares_what_is_run(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all images, one by one, where that is run; the last may have the largest error."""
    for how, first in (("--by-image", 1), ("--no-by-image", 3)):
        found = json.loads(said(capsys, "check", model, "--no-gradients", how, "--json"))
        nodes = found["sections"][0]["nodes"]
        assert nodes[0]["type"] == f"f32[{first}, 8, 128, 128]"
        assert nodes[-1]["type"] == "f32[3, 10]"
    graph = improved(large())
    inputs = inputs_of(graph)
    inputs["x"][:2], inputs["x"][2] = 0, inputs["x"][2] * 1e6
    first, *_ = check_nodes(graph, inputs)
    assert first.passed and first.error > 1e-3


# ---------------------------------------------------------------- objects, budgets


@needs_cc
@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)
def test_an_object_gives_the_bits_of_the_model(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = make(3)
    inputs = inputs_of(graph)
    for cut in each_cut(graph, 3, monkeypatch, 3):
        artifact = compile_object(graph, tmp_path, name=f"cut{cut}")
        got = run_in_c(artifact, graph, inputs, tmp_path)
        for name, array in compiled(graph, threads=1).run(inputs).items():
            np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_a_budget_counts_both_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Net("budget")
    y = b.step(b.step(b.input("x", "f32[2, 64, 14, 14]"), 64), 64)
    b.output("y", b.step(y, 64))
    graph = b.build()
    inputs = inputs_of(graph)
    want = ir.interpret(graph, inputs, "float64")
    cut_at(2, monkeypatch)
    most = planned(graph).kept_bytes(2)
    assert most == planned(graph).resident_bytes + planned(graph).parts[0].arena_bytes
    for share in (1.0, 0.8):
        model = compiled(graph, threads=2, memory=int(share * most))
        plan = model.executable().plan
        assert len(plan.parts) == 2 and plan.kept_bytes(2) <= share * most
        near(model.run(inputs), want, 1e-4)
    with pytest.raises(convc.CapacityError, match=r"memory=1000: the least .* is [\d,]+ bytes"):
        convc.compile(graph, memory=1000)


def test_a_plan_counts_the_arena_of_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_at(3, monkeypatch)
    graph = improved(residual(8))
    alone = planned(graph, ())
    need = sum(
        part.constant_bytes + part.given_bytes + max(part.arena_bytes, part.passing_bytes)
        for part in alone.parts
    )
    monkeypatch.setattr("convc.plan.total_bytes", lambda: need)
    assert planned(graph, ()).kept_bytes(1) == alone.kept_bytes(1)
    options = Options(4, "fast", (), target_named(), ())
    with pytest.raises(convc.CapacityError, match="the plan needs"):
        stages(graph, options)
    monkeypatch.setattr("convc.plan.total_bytes", lambda: need + 3 * alone.parts[0].arena_bytes)
    assert stages(graph, options).plan.kept_bytes(4) > alone.kept_bytes(1)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_have_arenas_where_they_have_images(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are more of them than images, all share one."""
    cut_at(2, monkeypatch)
    executable = compiled(residual(3), threads=threads).executable()
    plan, memory = executable.plan, executable._context()
    assert plan.images is not None and executable._loop is not None
    more = plan.kept_bytes(threads) - plan.resident_bytes
    assert more == (threads - 1 if threads <= 3 else 0) * plan.images.arena_bytes
    assert memory._scratch.nbytes >= threads * executable._loop.scratch
    assert (executable._loop.shared_bytes > 0) is (threads > 3)
    own = executable._loop.scratch - executable._loop.part.kernels.scratch
    assert (own > plan.images.arena_bytes) is (threads <= 3)
