"""The options that say how to compile are the same in all tools."""

import json

import numpy as np
import pytest

from convc.tools import profile
from convc.tuning.database import database
from tests.cli.commands import refused, status

COMMANDS = ("run", "check", "show", "why", "tune", "compile", "profile")
FORCED = ("--algorithm", "conv1=winograd2")


@pytest.fixture
def argv(model, arrays, tmp_path):
    """A call of each command that says which algorithms it takes, where it can."""
    out = ("--output", tmp_path / "out")
    return {
        "run": ("run", model, *arrays[0], *out),
        "check": ("check", model, "--no-gradients", "--json"),
        "show": ("show", model, "--at", "algorithms"),
        "why": ("why", model, "relu1"),
        "tune": ("tune", model, "--budget", "0", "--json"),
        "compile": ("compile", model, *out),
        "profile": ("profile", model, "--runs", "1", "--json"),
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_them(command, capsys):
    assert status(command, "--help") == 0
    said = capsys.readouterr().out
    for option in ("--target", "--accuracy", "--algorithm", "--passes", "--without"):
        assert f"{option} " in said
    assert ("--threads" in said) == (command != "compile")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_choice_is_forced_and_accuracy_forbids_it(command, argv, capsys):
    assert status(*argv[command], *FORCED) == 0
    said = capsys.readouterr().out
    assert "winograd2" in said or command in ("run", "compile", "tune")
    assert "accuracy" in refused(capsys, *argv[command], *FORCED, "--accuracy", "exact")
    assert "NODE=NAME" in refused(capsys, *argv[command], "--algorithm", "winograd2")
    assert "absent" in refused(capsys, *argv[command], "--algorithm", "absent=direct")


def test_what_is_forced_is_what_runs(model, arrays, tmp_path):
    files, _ = arrays
    found = []
    for name in ("direct", "winograd4"):
        out = tmp_path / name
        assert status("run", model, *files, "--output", out, "--algorithm", f"conv1={name}") == 0
        found.append(np.load(out / "scores.npy"))
    assert not np.array_equal(*found)
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)


def test_check_forces_choices_in_either_direction(model, capsys):
    assert status("check", model, "--json", "--gradients", "--algorithm", "conv1=winograd2",
                  "--algorithm", "conv_weight_grad=direct") == 0  # fmt: skip
    forward, gradients = json.loads(capsys.readouterr().out)["sections"]
    chosen = {node["node"]: node["algorithm"] for node in forward["nodes"] + gradients["nodes"]}
    assert chosen["relu1"] == "winograd2" and chosen["conv_weight_grad"] == "direct"


def test_passes_change_what_is_explained_and_tuned(model, capsys):
    assert status("why", model, "conv1", "--without", "fuse_epilogues") == 0
    assert capsys.readouterr().out.startswith("conv1: conv ")
    argv = ("tune", model, "--threads", "1", "--budget", "3", "--json")
    assert status(*argv, "--without", "fuse_epilogues,fold_affine") == 0
    assert "conv1" in {node["node"] for node in json.loads(capsys.readouterr().out)["nodes"]}
    assert not any("relu" in row.signature and "conv" in row.signature
                   for row in database().rows())  # fmt: skip


def test_profile_calls_the_whole_model_on_so_many_threads(model, capsys, monkeypatch):
    monkeypatch.setattr(profile, "peak_rate", lambda target, threads: 1e12 * threads)
    assert status("profile", model, "--runs", "1", "--threads", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["threads"], found["peak"], found["whole_peak"]) == (2, 1e12, 2e12)
    assert status("profile", model, "--runs", "1") == 0
    assert "a call, threads: 1," in capsys.readouterr().out


GRADIENTS = {
    "check": ("--json",),
    "show": ("--at", "algorithms"),
    "why": ("--json",),
    "tune": ("--budget", "0", "--json"),
    "profile": ("--runs", "1", "--json"),
}


@pytest.mark.parametrize("command", GRADIENTS)
def test_gradients_are_of_all_float_inputs_and_weights(command, model, capsys):
    def said(*more):
        assert status(command, model, *GRADIENTS[command], *more) == 0
        return capsys.readouterr().out

    both = said("--gradients")  # conv_input_grad is of x alone
    assert "conv_input_grad" in both and "conv_weight_grad" in both
    assert ("conv_weight_grad" in said()) == (command == "check")
    assert status(command, "--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "the gradients of all float inputs and weights too (default: " in told


@pytest.mark.parametrize("command", ["compile", "convert"])
def test_what_is_written_has_the_same_gradients(command, model, tmp_path, capsys):
    out = {"compile": tmp_path, "convert": tmp_path / "network_gradients.ir"}
    assert status(command, model, "--gradients", "--output", out[command]) == 0
    suffix = {"compile": ".h", "convert": ".ir"}[command]
    written = (tmp_path / f"network_gradients{suffix}").read_text()
    for name in ("x", "conv1.weight", "conv1.bias", "dense.weight"):
        name = name.replace(".", "_") if command == "compile" else name
        assert f"grad_{name}" in written
