"""``convc doctor``, logging and debugging, and how the tools print."""

import io
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import convc
from convc.backend.target import available
from convc.tools import doctor
from convc.tools.progress import Progress
from convc.tools.table import json_text, pairs, table
from tests.cli.commands import network, status

ROOT = Path(__file__).parents[2]


def test_doctor_finds_this_machine_in_order(capsys):
    assert status("doctor") == 0
    said = capsys.readouterr().out
    for section in ("versions", "targets", "threads", "memory", "CONVC_DEBUG", "self-test"):
        assert section in said
    assert all(f"{target} " in said for target in available())


def test_doctor_prints_json(capsys, monkeypatch):
    monkeypatch.setenv("CONVC_NUM_THREADS", "3")
    assert status("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["convc"] == convc.__version__
    assert found["threads"]["threads of a model"] == 3
    assert [test["target"] for test in found["self-test"]] == list(available())
    variables = {variable["name"]: variable["value"] for variable in found["variables"]}
    assert variables["CONVC_NUM_THREADS"] == "3"


def test_doctor_reports_what_is_wrong(capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("CONVC_TARGET", "abacus")
        assert status("doctor") == 1
        assert "unknown target 'abacus'" in capsys.readouterr().out

    with monkeypatch.context() as patch:
        patch.setenv("CONVC_NUM_THREADS", "many")
        assert status("doctor") == 1
        assert "WRONG: CONVC_NUM_THREADS='many' must be" in capsys.readouterr().out

    def fail(*args, **more):
        raise RuntimeError("no code today")

    monkeypatch.setattr(doctor, "check_graph", fail)
    assert status("doctor") == 1
    assert "no code today" in capsys.readouterr().out


def test_doctor_knows_the_extras_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {name: tuple(extras[name]) for name in doctor.EXTRAS} == doctor.EXTRAS
    assert extras.keys() - doctor.EXTRAS.keys() == {"test", "dev"}
    required = tuple(line.partition(">")[0] for line in project["dependencies"])
    assert required == doctor.PACKAGES


def test_doctor_lists_packages_that_are_there_or_how_to_get_them(monkeypatch):
    code = (
        "import sys; from convc.tools import doctor; doctor._extras(); "
        "print(*sys.modules.keys() & {'onnx', 'rich', 'openvino', 'torch'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not done.stdout.strip()
    versions = {"rich": "14.1", "torch": None, "openvino": "2026.4", "matplotlib": None}
    monkeypatch.setattr(doctor, "_version", versions.get)
    monkeypatch.setattr(doctor, "find_spec", lambda name: name in ("rich", "matplotlib") or None)
    found = doctor._extras()
    assert found["rich"] == "14.1"
    assert found["matplotlib"] == "installed"
    assert found["openvino"] == "2026.4, which lacks its module"
    assert found["onnx"] == 'not installed: pip install "convc[onnx]"'
    assert found["onnxruntime"] == 'not installed: pip install "convc[bench]"'
    assert found["torch"].startswith("not installed: pip install torch")


# ---------------------------------------------------------------- logging, debugging


@pytest.mark.parametrize(
    ("level", "mark"),
    list(enumerate(["", "relu1: ", "after fuse", "kernel max_pool", "target triple", ".globl"])),
)
def test_debugging_shows_more_at_each_level(level, mark, capsys, monkeypatch):
    monkeypatch.setenv("CONVC_DEBUG", str(level))
    convc.compile(network().bind({"N": 1}))
    said = capsys.readouterr().err
    assert mark in said
    marks = ["# algorithms", "# network after", "# loops", "; LLVM", "# assembly"]
    assert [text in said for text in marks] == [number < level for number in range(5)]


def test_the_log_goes_to_standard_error(model, arrays, tmp_path, capsys, monkeypatch):
    argv = ["run", model, *arrays[0], "--output", tmp_path]
    assert status(*argv) == 0
    assert not capsys.readouterr().err
    monkeypatch.setenv("CONVC_LOG", "info")
    assert status(*argv) == 0
    assert "convc: INFO: compiling network" in capsys.readouterr().err
    monkeypatch.setenv("CONVC_LOG", "loud")
    assert status(*argv) == 0
    assert "CONVC_LOG=loud" in capsys.readouterr().err


# ---------------------------------------------------------------- text


def test_tables_align_numbers_at_the_right():
    text = table(("name", "bytes"), [("a", 5), ("long name", "1,024")])
    assert text.splitlines() == [
        "name       bytes",
        "---------  -----",
        "a              5",
        "long name  1,024",
    ]
    assert table(("name", "bytes"), []).splitlines() == ["name  bytes", "----  -----"]
    assert pairs([("a", 1), ("bcd", "x")]) == "  a    1\n  bcd  x"


def test_json_has_no_numbers_that_json_lacks():
    assert json.loads(json_text({"a": [np.inf, 1.5], "b": np.nan})) == {"a": [None, 1.5], "b": None}


def test_progress_is_plain_lines_in_a_file_and_one_line_on_a_terminal(monkeypatch):
    plain = io.StringIO()
    progress = Progress(plain)
    progress("epoch 1", 0.5)
    progress.done("done")
    assert plain.getvalue() == "epoch 1  50%\ndone\n"

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "10")
    progress = Progress(screen := Terminal())
    progress.update("a line that is too long")
    progress.done("done")
    assert screen.getvalue() == "\r\x1b[Ka line th\r\x1b[Kdone\n"
