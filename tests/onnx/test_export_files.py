"""Files of ONNX that are written: the model, its weights, what the command line makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc import cli, zoo
from convc.frontends.onnx import export
from convc.frontends.onnx.export.opsets import OLDEST
from tests.onnx.models import onnx
from tests.onnx.test_export import alike, network, noise
from tests.oracles import SEED


def test_a_file_is_the_model(tmp_path: Path) -> None:
    graph = network(N=2, H=14, W=13)
    convc.save(graph, tmp_path / "small.onnx")
    model = onnx.load(tmp_path / "small.onnx")
    assert (model.producer_name, model.producer_version) == ("convc", convc.__version__)
    back = convc.load(tmp_path / "small.onnx")
    given = noise(graph)
    alike(ir.interpret(back, given), ir.interpret(graph, given), 1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]


def test_a_compiled_model_is_saved_as_its_graph(tmp_path: Path) -> None:
    graph = network(N=2, H=14, W=13)
    model = convc.compile(graph, threads=1)
    convc.save(model, tmp_path / "small.ir")
    assert convc.load(tmp_path / "small.ir") == graph
    assert convc.to_onnx(model) == convc.to_onnx(graph)


def test_large_weights_lie_in_a_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LARGEST", 1000)
    monkeypatch.setattr(export, "SMALL", 24)
    graph = network(N=2, H=14, W=13)
    path = tmp_path / "large.onnx"
    for _ in range(2):  # the second time over the first
        convc.save(graph, path)
        assert {file.name for file in tmp_path.iterdir()} == {"large.onnx", "large.onnx.data"}
        given = noise(graph)
        alike(ir.interpret(convc.load(path), given), ir.interpret(graph, given), 1e-6)
        engine: Any = pytest.importorskip("onnxruntime")
        session = engine.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        alike({"loss": session.run(None, given)[0]}, ir.interpret(graph, given))
    sizes = {name: array.nbytes for name, array in graph.weights.items()}
    assert (tmp_path / "large.onnx.data").stat().st_size == sum(s for s in sizes.values() if s > 24)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    graph = network(N=1, H=14, W=13)
    missing = tmp_path / "missing" / "a.onnx"
    with pytest.raises(ir.FileError) as caught:
        convc.save(graph, missing)
    assert str(caught.value) == f"{missing}: the folder does not exist; make it first"
    for name in ("folder.onnx", "folder.ir"):
        folder = tmp_path / name
        folder.mkdir()
        with pytest.raises(ir.FileError, match=f"{name}: cannot be written: Is a directory"):
            convc.save(graph, folder)
        with pytest.raises(convc.LoadError, match=f"{name}: a folder, no file"):
            convc.load(folder)
    with pytest.raises(convc.InputError, match="3 is not the path of a file"):
        convc.save(graph, 3)  # type: ignore[arg-type]
    with pytest.raises(convc.InputError, match=r"cannot write \.onxx; use \.ir or \.onnx"):
        convc.save(graph, tmp_path / "a.onxx")


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def converted(*argv: object) -> Path:
        assert cli.main(["convert", *map(str, argv)]) == 0
        assert capsys.readouterr().out.startswith(f"{argv[-1]}  ")
        return Path(str(argv[-1]))

    first = converted("zoo:lenet", "--output", tmp_path / "lenet.onnx")
    back = convc.load(converted(first, "--sizes", "N=3", "-o", tmp_path / "lenet.ir"))
    given = {"x": np.random.default_rng(SEED).standard_normal((3, 1, 28, 28), np.float32)}
    alike(ir.interpret(back, given), ir.interpret(zoo.build("lenet", "N"), given), 1e-6)
    training = convc.load(
        converted("zoo:lenet", "--gradients", "--sizes", "N=2", "-o", tmp_path / "back.onnx")
    )
    assert "grad_conv1.weight" in training.outputs
    assert cli.main(["convert", "zoo:classifier_adaptive", "-o", str(tmp_path / "no.onnx")]) == 2
    assert "adaptive_pool" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("op", "opset"),
    [
        (ir.ops.Relu(), 18),
        (ir.ops.Gelu("none"), 20),
        (ir.ops.GroupNorm(1e-5, 2), 21),
        (ir.ops.RmsNorm(1e-5, (2,)), 23),
    ],
)
def test_the_opset_is_the_oldest_that_has_the_operators(op: ir.Op, opset: int) -> None:
    b = ir.Builder("old")
    b.output("y", b.softmax(b.apply(op, b.input("x", "f32[N, 4, 5]"))))
    model = convc.to_onnx(b.build())
    assert [(each.domain, each.version) for each in model.opset_import] == [("", opset)]
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)
    if opset > OLDEST:
        model.opset_import[0].version = opset - 1
        with pytest.raises(onnx.checker.ValidationError, match=r"No Op registered|deprecated"):
            onnx.checker.check_model(model)


def test_equal_constants_are_one() -> None:
    b = ir.Builder("shared")
    x = b.input("x", "f32[N, 3, 4, 4]")
    for number in range(3):
        x = b.clip(b.scale(x, 2.0 + number), 0.0, 6.0)
    b.output("y", x)
    model = convc.to_onnx(b.build())
    numbers = [onnx.numpy_helper.to_array(tensor).item() for tensor in model.graph.initializer]
    assert sorted(numbers) == [0.0, 2.0, 3.0, 4.0, 6.0]


def test_operators_that_the_installed_onnx_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    known = onnx.defs.get_schema

    def of_an_older_one(kind: str, version: int) -> Any:
        schema = known(kind, version)
        if schema.since_version > 19:
            raise onnx.defs.SchemaError
        return schema

    monkeypatch.setattr(onnx.defs, "get_schema", of_an_older_one)
    b = ir.Builder("new")
    b.output("y", b.gelu(b.input("x", "f32[N, 4]")))
    with pytest.raises(convc.ExportError, match=r"does not know Gelu .*pip install -U onnx"):
        convc.to_onnx(b.build())
