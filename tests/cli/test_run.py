"""``convc run``: results in files, and what it refuses."""

import json

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from convc.tools import arguments, run
from tests.cli.commands import network, refused, status


def test_run_writes_what_the_interpreter_computes(model, arrays, tmp_path, capsys):
    given, inputs = arrays
    out = tmp_path / "results" / "here"
    assert status("run", model, *given, "--output", out, "--threads", 1) == 0
    expected = ir.interpret(network(), inputs)
    assert {path.name for path in out.iterdir()} == {f"{name}.npy" for name in expected}
    for name, array in expected.items():
        np.testing.assert_allclose(np.load(out / f"{name}.npy"), array, rtol=1e-4, atol=1e-4)
    said = capsys.readouterr().out
    assert "f32[3, 5]" in said
    assert str(out / "scores.npy") in said


def test_run_prints_json(model, arrays, tmp_path, capsys):
    assert status("run", model, *arrays[0], "--output", tmp_path, "--json") == 0
    named = {output["name"]: output for output in json.loads(capsys.readouterr().out)["outputs"]}
    assert named["loss"] == {"name": "loss", "type": "f32[]", "file": str(tmp_path / "loss.npy")}


@pytest.mark.parametrize("target", available())
def test_run_runs_on_every_target_of_the_machine(target, model, arrays, tmp_path):
    assert status("run", model, *arrays[0], "--output", tmp_path, "--target", target) == 0


def test_file_names_are_safe_and_distinct():
    names = ["y", "../y", "a/b", "a:b", "Y", ".hidden", "...", "ä"]
    files = run.file_names(names)
    assert list(files) == names
    assert files["y"] == "y.npy"
    assert len({file.lower() for file in files.values()}) == len(names)
    assert all("/" not in file and not file.startswith(".") for file in files.values())


def test_run_takes_any_order_of_bytes_and_axes(model, arrays, tmp_path):
    given, inputs = arrays
    np.save(tmp_path / "x.npy", np.asfortranarray(inputs["x"]).astype(">f4"))
    assert status("run", model, *given, "--output", tmp_path / "out") == 0


def test_run_refuses_inputs_that_do_not_fit(model, arrays, tmp_path, capsys):
    (x, labels), inputs = arrays
    out = ["--output", tmp_path / "out"]

    def given(array):
        np.save(tmp_path / "other.npy", array)
        return f"--input=x={tmp_path / 'other.npy'}"

    def refusal(*argv):
        return refused(capsys, "run", model, *argv, *out)

    assert "needs more inputs: --input labels=FILE.npy (i64[N])" in refusal(x)
    extra = refusal(x, labels, f"--input=y={tmp_path / 'x.npy'}")
    assert "no input 'y' (its inputs: x, labels)" in extra
    assert "given twice" in refusal(x, x, labels)
    assert "(3, 1, 8)" in refusal(given(inputs["x"][..., 0]), labels)
    assert "axis 2 must be 8" in refusal(given(inputs["x"][:, :, :7]), labels)
    assert "N is 2 elsewhere" in refusal(given(inputs["x"][:2]), labels)
    assert "float64, not f32" in refusal(given(inputs["x"].astype(float)), labels)
    np.save(tmp_path / "labels.npy", inputs["labels"] + 9)
    assert "is not in [0, 5)" in refusal(x, labels)
    assert not (tmp_path / "out").exists()


def test_run_refuses_files_that_are_no_arrays(model, arrays, tmp_path, capsys):
    (x, labels), inputs = arrays
    path = tmp_path / "x.npy"

    def refusal():
        return refused(capsys, "run", model, x, labels, "--output", tmp_path / "out")

    path.write_bytes(path.read_bytes()[:-7])
    assert "x.npy" in refusal()
    path.write_bytes(b"no array at all")
    assert "magic string" in refusal()
    path.write_bytes(b"")
    assert "x.npy" in refusal()
    np.save(path, np.array([{}], object), allow_pickle=True)
    assert "allow_pickle" in refusal()
    path.unlink()
    assert "x.npy: No such file" in refusal()
    np.save(path, inputs["x"])
    (tmp_path / "out").write_text("a file where the folder should be")
    assert "out: cannot write there: File exists; give a folder" in refusal()


def test_run_refuses_a_target_of_another_machine(model, arrays, tmp_path, capsys):
    foreign = "neon" if "plain" in available() else "avx2"
    argv = ["run", model, *arrays[0], "--output", tmp_path, "--target", foreign]
    assert "does not run on this machine" in refused(capsys, *argv)


def test_arguments_read_no_pickles(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([print], object), allow_pickle=True)
    with pytest.raises(convc.LoadError, match="allow_pickle"):
        arguments.read_array(tmp_path / "evil.npy")
