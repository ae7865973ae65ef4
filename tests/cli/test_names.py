"""Names of all sorts on the command line: as words of it, in what is printed, in files."""

import json
import shutil
import subprocess

import numpy as np
import pytest

import convc
import ir
from convc.tools import show_plot
from tests.cli.commands import refused, status

ODD = ["input:0", "a/b c", "../up", "k=v", 'say "x"', "$\\frac", "a\nb\x1b[31m", "*/ int x; /*"]


def network(name):
    """All of whose names are odd."""
    b = ir.Builder(f"{name} net")
    x = b.input(name, "f32[N, 3, 9, 9]")
    w = b.weight(f"{name} w", np.ones((4, 3, 3, 3), np.float32) / 8)
    b.output(f"{name} out", b.relu(b.conv(x, w, name=f"{name} conv"), name=f"{name} relu"))
    return b.build()


@pytest.fixture(params=ODD)
def odd(request, tmp_path):
    """A name, its model on disk, and the array of its input."""
    network(request.param).save(tmp_path / "net.ir")
    x = np.random.default_rng(1).standard_normal((2, 3, 9, 9), np.float32)
    np.save(tmp_path / "x=1.npy", x)
    return request.param, tmp_path / "net.ir", x


def printed(capsys):
    """Lines of what was printed; nothing in them moves a terminal's cursor."""
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    return out


def test_a_model_runs_and_its_files_stay_in_their_folder(odd, tmp_path, capsys):
    name, model, x = odd
    given, out = f"--input={name}={tmp_path / 'x=1.npy'}", tmp_path / "deep" / "out"
    forced = f"--algorithm={name} conv=direct"
    assert status("run", model, given, "--output", out, forced, "--threads", 1) == 0
    printed(capsys)
    (file,) = out.iterdir()
    wanted = ir.interpret(network(name), {name: x})[f"{name} out"]
    np.testing.assert_allclose(np.load(file), wanted, rtol=1e-4, atol=1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {
        "net.ir", "net.safetensors", "x=1.npy", "deep",
    }  # fmt: skip
    assert status("run", model, given, "--output", out, "--json") == 0
    (said,) = json.loads(capsys.readouterr().out)["outputs"]
    assert said["name"] == f"{name} out"


@pytest.mark.parametrize("stage", ["graph", "passes", "algorithms", "loops", "plan"])
def test_a_stage_is_shown_line_by_line(stage, odd, capsys):
    name, model, _ = odd
    assert status("show", model, "--at", stage, "--sizes", "N=2") == 0
    printed(capsys)
    if stage not in ("graph", "passes"):
        assert status("show", model, "--at", stage, "--node", f"{name} conv") == 0
        printed(capsys)


def test_other_tools_take_the_name_of_a_node(odd, tmp_path, capsys):
    name, model, _ = odd
    assert status("why", model, f"{name} conv") == 0
    assert status("check", model, "--sizes", "N=2", "--threads", 1) == 0
    assert status("profile", model, "--trace", tmp_path / "t.json", "--threads", 1) == 0
    printed(capsys)
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert any(event["name"].startswith(f"{name} ") for event in events)
    assert "no node" in refused(capsys, "why", model, f"{name} convolution")
    told = refused(capsys, "run", model, "--output", tmp_path)
    assert "needs more inputs: --input " in told
    assert all(line.isprintable() for line in told.split("\n"))


def test_a_model_becomes_onnx_and_comes_back(odd, tmp_path):
    pytest.importorskip("onnx")
    name, model, _ = odd
    assert status("convert", model, "--output", tmp_path / "net.onnx") == 0
    back = convc.load(tmp_path / "net.onnx")
    assert (list(back.inputs), list(back.outputs)) == ([name], [f"{name} out"])


def test_the_header_is_c(odd, tmp_path, capsys):
    _, model, _ = odd
    assert status("compile", model, "--output", tmp_path / "c", "--gradients") == 0
    printed(capsys)
    (header,) = (tmp_path / "c").glob("*.h")
    compiler = shutil.which("cc") or pytest.skip("no system C compiler")
    for language in ("c", "c++"):
        command = [compiler, "-Wall", "-Werror", "-fsyntax-only", "-x", language, header]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "cc1plus" not in done.stderr:  # a C compiler may come without the one of C++
            assert done.returncode == 0, done.stderr


def test_a_plan_is_drawn_with_names_as_they_are(odd):
    pytest.importorskip("matplotlib")
    name, _, _ = odd
    plan = convc.compile(network(name), 1).stages(N=2).plan
    _, axes = show_plot.picture(plan, name).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        f"{number} {step.node}" for number, step in enumerate(plan.steps)
    ]


def test_the_longest_name_that_fits_is_the_input(tmp_path):
    b = ir.Builder("two")
    short, long = b.input("a", "f32[1]"), b.input("a=b", "f32[1]")
    b.output("y", short - long)
    b.build().save(tmp_path / "two.ir")
    for file, number in (("b=c.npy", 1), ("c.npy", 3)):
        np.save(tmp_path / file, np.float32([number]))
    arrays = [f"--input=a={tmp_path / 'b=c.npy'}", f"--input=a=b={tmp_path / 'c.npy'}"]
    assert status("run", tmp_path / "two.ir", *arrays, "--output", tmp_path) == 0
    assert np.load(tmp_path / "y.npy") == [-2]


def test_what_tuning_says_is_lines(odd, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CONVC_CACHE", str(tmp_path / "cache"))
    assert status("tune", odd[1], "--budget", 0.01, "--threads", 1) == 0
    assert " database " in printed(capsys).replace("\n", " ")
