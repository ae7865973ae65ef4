"""The command line as a whole: help, errors, interrupts."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convc
import ir
from convc import cli
from convc.backend.objects import objects
from convc.backend.target import TARGETS, available
from convc.tools import bench, demo
from tests.cli.commands import refused, status

ROOT = Path(__file__).parents[2]
COMMANDS = ("demo", "run", "check", "show", "why", "tune", "compile", "convert", "bench", "doctor")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    assert status(command, "--help") == 0
    said = capsys.readouterr().out
    assert "example:" in said
    assert f"convc {command}" in said.split("example:")[1]


def test_help_lists_the_commands_and_the_exit_status(capsys):
    assert status("--help") == 0
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)
    assert "exit status" in said


def test_the_version_is_that_of_the_package(capsys):
    assert status("--version") == 0
    assert capsys.readouterr().out == f"convc {convc.__version__}\n"


def test_python_m_convc_is_the_same_command():
    ran = subprocess.run(
        [sys.executable, "-m", "convc", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (0, f"convc {convc.__version__}\n")


def test_an_interrupt_during_the_imports_ends_the_command_quietly():
    command = [sys.executable, "-X", "importtime", "-m", "convc", "doctor"]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts
    ) as process:
        for line in process.stderr:  # what has been imported, one by one
            if line.endswith(" argparse\n"):
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in said


def _heed_interrupts():
    """Also where the tests run in the background, whose processes ignore them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_the_package_has_what_it_names():
    assert all(getattr(convc, name).__name__ == name for name in convc.__all__)
    assert set(convc.__all__) <= set(dir(convc))
    assert "lenet" in convc.zoo.NAMES
    with pytest.raises(AttributeError, match="module 'convc' has no attribute 'compil'"):
        _ = convc.compil
    assert not hasattr(convc, "__wrapped__")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fly"],
        ["run"],
        ["show", "--at", "moon", "m.ir"],
        ["run", "m.ir", "--input", "x", "--output", "out"],
        ["run", "m.ir", "--output", "out", "--threads", "0"],
        ["check", "m.ir", "--sizes", "N"],
        ["check", "m.ir", "--seed", "-1"],
        ["check", "m.ir", "--target", "abacus"],
        ["check", "m.ir", "--sizes", "N=-1"],
        ["check", "m.ir", "--sizes", "N=1,N=2"],
        ["check", "m.ir", "--sizes", "N=1", "--sizes", "H=2,N=1"],
        ["compile", "m.ir"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_refused_in_two_lines(argv, capsys):
    refused(capsys, *argv)


def test_options_may_stand_between_positional_arguments(model, capsys):
    assert status("why", model, "--target", "plain", "relu1") == 0
    right = capsys.readouterr().out
    assert status("why", model, "relu1", "--target", "plain") == 0
    assert right == capsys.readouterr().out != ""


def test_peers_may_stand_before_the_names(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "_networks", lambda args: seen.append((args.vs, args.names)) or 0)
    monkeypatch.setattr(bench.peers, "require", lambda peers: None)
    assert status("bench", "--vs", "onnxruntime", "torch", "lenet", "unet") == 0
    assert status("bench", "lenet", "unet", "--vs", "onnxruntime", "torch") == 0
    assert seen == [(["onnxruntime", "torch"], ["lenet", "unet"])] * 2
    assert "did you mean 'onnxruntime'" in refused(capsys, "bench", "--vs", "onxruntime", "lenet")


def test_directions_may_stand_before_the_layers(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "_layers", lambda args: seen.append(vars(args)) or 0)
    assert status("bench", "--layers", "--directions", "g", "h", "3x3-*") == 0
    assert (seen[0]["directions"], seen[0]["layers"]) == (["g", "h"], ["3x3-*"])
    assert "no direction 'x'; there are c, g, h" in refused(capsys, "bench", "--directions", "x")


def test_an_error_points_to_the_help_of_its_command(capsys):
    for argv in (["why", "m.ir", "--bogus"], ["why", "m.ir", "a", "b"], ["why"]):
        assert "see convc why --help" in refused(capsys, *argv)
    assert "see convc --help" in refused(capsys, "fly")


def test_an_interrupt_ends_with_130_and_one_word(model, capsys, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(convc, "load", interrupt)
    assert status("show", model) == 130
    assert capsys.readouterr().err == "convc: interrupted\n"


def test_a_reader_that_goes_away_is_no_error(model):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        argv = [sys.executable, "-m", "convc", "show", str(model)]
        ran = subprocess.run(argv, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (ran.returncode, ran.stderr) == (cli.BROKEN_PIPE, "")


def test_memory_that_lacks_is_an_error_of_one_line(model, capsys, monkeypatch):
    def exhaust(path):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(convc, "load", exhaust)
    assert "9 TiB" in refused(capsys, "show", model)


# ---------------------------------------------------------------- models that are refused

CONV = "conv(%x, %w) {{stride = {}, pads = ((0, 0), (0, 0)), dilation = (1, 1), groups = 1}}"
BROKEN = {
    "broken text": ("graph g { input %x f32[1]", "line 1"),
    "unknown op": ("%y = convolve(%x, %w) : f32[1, 1, 1, 1]", "convolve"),
    "kernel larger than the input": (f"%y = {CONV.format('(1, 1)')} : f32[1, 1, 1, 1]", "kernel"),
    "stride 0": (f"%y = {CONV.format('(0, 1)')} : f32[1, 1, 1, 1]", "stride"),
    "missing weights": ("%y = relu(%x) : f32[1, 1, 4, 4]", "missing weights"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("command", ["show", "check", "run"])
def test_broken_models_are_refused(case, command, tmp_path, capsys):
    text, word = BROKEN[case]
    if text.startswith("%"):
        declared = "input %x: f32[1, 1, 4, 4]\n  weight %w: f32[1, 1, 5, 5]"
        text = f"graph g {{\n  {declared}\n  {text}\n  return y = %y\n}}\n"
    path = tmp_path / "broken.ir"
    path.write_text(text)
    b = ir.Builder("weights")
    b.output("w", b.weight("w", np.zeros((1, 1, 5, 5), np.float32)))
    if case != "missing weights":
        b.build().save(tmp_path / "other.ir")
        (tmp_path / "other.safetensors").rename(tmp_path / "broken.safetensors")
    more = ["--output", tmp_path / "out"] if command == "run" else []
    assert word in refused(capsys, command, path, *more)


def test_files_that_are_no_models_are_refused(tmp_path, model, capsys):
    assert "no such file" in refused(capsys, "show", tmp_path / "none.ir")
    assert "use .ir" in refused(capsys, "show", tmp_path / "model.txt")
    weights = model.with_suffix(".safetensors")
    weights.write_bytes(weights.read_bytes()[:-5])
    assert "truncated" in refused(capsys, "show", model)
    model.write_bytes(b"\xff\xfe")
    assert "UTF-8" in refused(capsys, "show", model)


def test_a_traceback_is_shown_on_demand(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CONVC_DEBUG", "1")
    assert status("show", tmp_path / "none.ir") == 2
    assert "Traceback" in capsys.readouterr().err


SETTINGS = {
    "CONVC_DEBUG": ("loud", "CONVC_DEBUG='loud' must be a whole number from 0 to 5"),
    "CONVC_NUM_THREADS": ("0", "CONVC_NUM_THREADS='0' must be a whole number from 1"),
    "CONVC_CACHE_MIB": ("much", "CONVC_CACHE_MIB='much' must be a whole number from 0"),
    "CONVC_TARGET": ("abacus", "unknown target 'abacus' in CONVC_TARGET"),
}
CALLS = {command: (command, "none.ir") for command in ("check", "show", "why", "tune", "profile")}
CALLS |= {command: (command, "none.ir", "--output", "out")
          for command in ("run", "compile", "convert")}  # fmt: skip
CALLS |= {"bench": ("bench", "overhead"), "cache": ("cache",), "demo": ("demo",)}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_setting_is_named_before_anything_is_done(name, capsys, monkeypatch):
    value, told = SETTINGS[name]
    monkeypatch.setenv(name, value)
    for argv in CALLS.values():
        assert status(*argv) == 2
        said = capsys.readouterr()
        assert not said.out
        assert said.err.startswith(f"convc: error: {told}")


@pytest.mark.parametrize("command", ["run", "check", "profile", "bench", "demo"])
def test_a_target_of_other_machines_is_refused_before_anything_is_done(
    command, capsys, monkeypatch
):
    (other, *_) = set(TARGETS) - set(available())
    monkeypatch.setenv("CONVC_TARGET", other)
    assert status(*CALLS[command]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith(f"convc: error: code for {other} does not run on this machine")


def test_code_for_other_machines_can_be_looked_at(model, capsys):
    (other, *_) = set(TARGETS) - set(available())
    assert status("show", model, "--at", "plan", "--target", other) == 0
    assert status("why", model, "conv1", "--target", other) == 0
    capsys.readouterr()
    assert other in refused(capsys, "why", "none.ir", "conv1", "--target", other, "--measure")


def test_options_may_stand_before_the_command(model, capsys):
    assert status("--target", "plain", "why", model, "relu1", "--json") == 0
    right = capsys.readouterr().out
    assert status("--json", "--target=plain", "why", model, "relu1") == 0
    assert right == capsys.readouterr().out != ""
    assert "see convc --help" in refused(capsys, "--json", "fly")
    assert "invalid choice" in refused(capsys, model, "show")
    assert status("--version", "show") == 0
    assert convc.__version__ in capsys.readouterr().out


def test_an_extent_has_one_size(capsys):
    assert "N is given twice" in refused(capsys, "show", "m.ir", "--sizes", "N=1,N=2")
    assert "N is given twice" in refused(capsys, "show", "m.ir", "--sizes", "N=1", "--sizes", "N=1")


# ---------------------------------------------------------------- compile, demo


def test_compile_prints_json_of_what_it_has_written(model, tmp_path, capsys):
    argv = ["compile", model, "-o", tmp_path, "--sizes", "N=2"]
    assert status(*argv) == 0
    text = capsys.readouterr().out
    assert status(*argv, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["object"]).stat().st_size == found["bytes"]
    assert found["symbol"] == "network_run"
    assert f"{found['symbol']}(" in Path(found["header"]).read_text()
    for value in (found["object"], found["header"], found["symbol"],
                  f"{found['bytes']:,}", f"{found['workspace_bytes']:,}"):  # fmt: skip
        assert value in text


def test_the_json_of_the_cache_has_the_measured_times(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CONVC_CACHE", str(tmp_path))
    monkeypatch.setenv("CONVC_CACHE_MIB", "7")
    argv = ("tune", "zoo:lenet", "--budget", "2", "--threads", "1")
    assert status(*argv) == 0
    capsys.readouterr()
    assert status("cache") == 0
    text = capsys.readouterr().out
    assert status("cache", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["folder"], found["limit_bytes"]) == (str(objects().folder), 7 << 20)
    times = found["measured_times"]
    assert times["measurements"] > 0 and times["problem"] is None
    assert Path(times["file"]).parent == tmp_path
    assert f"{times['file']}: {times['measurements']} measurements" in text
    assert f"{found['kernels']} kernels" in text


def test_compile_writes_into_a_folder(model, tmp_path, capsys):
    argv = ["compile", model, "-o", tmp_path / "build", "--name", "tiny"]
    assert status(*argv, "--sizes", "N=2") == 0
    assert "defines tiny_run" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "build").iterdir()} == {"tiny.o", "tiny.h"}


@pytest.mark.parametrize(("name", "better"), [("my-net", "my_net"), ("1", "v1"), ("int", "int_")])
def test_a_name_is_an_identifier_of_c(name, better, model, tmp_path, capsys):
    said = refused(capsys, "compile", model, "-o", tmp_path / "out", "--name", name)
    assert f"did you mean {better}?" in said
    assert not (tmp_path / "out").exists()


def test_the_demo_looks_at_its_folder_before_it_trains(tmp_path, capsys, monkeypatch):
    def train(*args, **more):
        raise AssertionError("trained first")

    monkeypatch.setattr(demo, "Trainer", train)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        said = refused(capsys, "demo", "-o", place)
        assert f"{place}: cannot write there" in said
        assert "--output DIR" in said


def test_the_demo_ends_well(tmp_path, capsys):
    assert status("demo", "-o", tmp_path / "here", "--epochs", 1, "--threads", 1) == 0
    assert str(tmp_path / "here" / "digits.ir") in capsys.readouterr().out
    assert ir.load(tmp_path / "here" / "digits.ir").name == "lenet"
