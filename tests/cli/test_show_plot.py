"""``convc show --at plan --plot``: the picture shows the plan as it is."""

import sys
from itertools import combinations

import pytest

import convc
import ir
from convc.tools import show_plot
from tests.cli.commands import network, refused, status


@pytest.fixture
def plan():
    pytest.importorskip("matplotlib")
    whole = ir.vjp(network(), ["conv1.weight", "dense.weight"])
    return convc.compile(whole, 1).stages(N=8).plan


def rectangles(plan):
    """Left, bottom, right and top of every rectangle, in steps and in parts of the arena."""
    _, axes = show_plot.picture(plan, "title").axes
    scale = max(bar.get_y() + bar.get_height() for bar in axes.patches)
    return [(bar.get_x(), bar.get_y() / scale, bar.get_x() + bar.get_width(),
             (bar.get_y() + bar.get_height()) / scale) for bar in axes.patches]  # fmt: skip


def test_every_buffer_is_a_rectangle_of_its_life_and_place(plan):
    shown = rectangles(plan)
    assert len(shown) == len(plan.temporaries) > 3
    for placed in plan.temporaries.values():
        ends = placed.offset + placed.nbytes
        uses = [n for n, step in enumerate(plan.steps) if placed.slot.number in step.slots]
        want = (uses[0], placed.offset / plan.arena_bytes, uses[-1] + 1, ends / plan.arena_bytes)
        assert any(got == pytest.approx(want) for got in shown), placed.slot.name


def test_rectangles_do_not_overlap(plan):
    for (left, low, right, high), (left2, low2, right2, high2) in combinations(rectangles(plan), 2):
        apart = right <= left2 or right2 <= left
        assert apart or high <= low2 + 1e-9 or high2 <= low + 1e-9


def alive(plan):
    """The bytes alive at each step, counted for each anew."""
    whole = [placed for placed in plan.temporaries.values() if placed.slot.part is None]
    steps = range(len(plan.steps))
    return [sum(p.nbytes for p in whole if p.first <= step <= p.last) for step in steps]


def test_what_is_alive_at_most_is_what_the_plan_says(plan):
    levels = alive(plan)
    assert levels == plan.alive
    assert len(levels) == len(plan.steps)
    assert max(levels) == plan.live_bytes <= plan.arena_bytes
    above, _ = show_plot.picture(plan, "title").axes
    (said,) = (text.get_text() for text in above.texts)
    assert f"at step {levels.index(plan.live_bytes)}, " in said


@pytest.mark.parametrize("name", ["unet", "densenet121"])
def test_parts_of_a_joined_buffer_do_not_count_again(name):
    pytest.importorskip("matplotlib")
    plan = convc.compile(convc.load(f"zoo:{name}"), 1).stages(N=1).plan
    assert any(placed.slot.part for placed in plan.temporaries.values()) and plan.images is None
    assert max(alive(plan)) == plan.live_bytes
    assert alive(plan) == plan.alive
    _, axes = show_plot.picture(plan, "title").axes
    written = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "several, in parts" in written and "image by image" not in written


@pytest.mark.parametrize("file", ["plan.png", "plan.svg"])
def test_show_draws_the_plan(file, model, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert status("show", model, "--at", "plan", "--plot", tmp_path / file) == 0
    assert "most alive at one step" in capsys.readouterr().out
    start = (tmp_path / file).read_bytes()[:200]
    assert start.startswith(b"\x89PNG") or b"<?xml" in start


def test_a_plan_without_buffers_is_drawn_too(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    b = ir.Builder("one")
    b.output("y", b.relu(b.input("x", "f32[3]")))
    b.build().save(tmp_path / "one.ir")
    empty = ir.Builder("empty").build()
    empty.save(tmp_path / "empty.ir")
    for name in ("one", "empty"):
        file = tmp_path / f"{name}.png"
        assert status("show", tmp_path / f"{name}.ir", "--at", "plan", "--plot", file) == 0
        assert file.exists()


def test_what_cannot_be_drawn_is_refused_before_any_work(model, tmp_path, capsys, monkeypatch):
    def said(file, *more):
        return refused(capsys, "show", model, "--plot", tmp_path / file, *more)

    assert "--at plan" in said("plan.png")
    assert "--node" in said("plan.png", "--at", "plan", "--node", "pool1")
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    assert 'pip install "convc[plot]"' in said("plan.png", "--at", "plan")


def test_a_file_of_an_unknown_format_is_refused(model, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    message = refused(capsys, "show", model, "--at", "plan", "--plot", tmp_path / "plan.doc")
    assert "must end in one of" in message and ".svg" in message
