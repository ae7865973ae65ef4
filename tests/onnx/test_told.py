"""What users are told: of types, of sizes, and of what is not there."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.cli import main
from convc.errors import LoadError
from tests.onnx.models import FLOAT, INT64, agrees, info, make, model_of, onnx

UINT8, INT32, UINT64, FLOAT16 = 2, 6, 13, 10


def steps(element: int, *nodes: tuple[str, str, str, dict[str, Any]], opset: int = 17) -> Any:
    """A model of x [N, 3] of an element type; `k` is 2 and `i` 1 of that type."""
    made = [make.make_node(kind, a.split(), [b], **more) for kind, a, b, more in nodes]
    types = {UINT8: np.uint8, INT32: np.int32, UINT64: np.uint64, INT64: np.int64}
    two = np.array([2], types.get(element, np.float32))
    result = info(nodes[-1][2], None)
    return model_of(made, [info("x", ["N", 3], element)], [result], {"k": two}, opset)


FLOATED = ("Cast", "a", "y", {"to": FLOAT})


@pytest.mark.parametrize(("model", "text"), [
    (steps(UINT8, ("Add", "x k", "a", {}), FLOATED), "uint8 is computed as int64: results of Add"),
    (steps(INT32, ("Reshape", "x s", "b", {}), ("Mul", "b k", "a", {}), FLOATED), "results of Mul"),
    (steps(UINT64, ("ReduceSum", "x", "a", {}), FLOATED), "uint64 is computed as int64"),
    (steps(FLOAT, ("Cast", "x", "h", {"to": FLOAT16}), ("Relu", "h", "y", {})), "FLOAT16 is"),
])  # fmt: skip
def test_types_that_are_computed_otherwise(
    model: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 3]), "s"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.warns(UserWarning, match=text) as caught:
        convc.load(model)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("model", [
    steps(UINT8, ("Cast", "x", "y", {"to": FLOAT})),
    steps(UINT8, ("Cast", "x", "a", {"to": INT32}), FLOATED),
    steps(UINT8, ("Cast", "x", "b", {"to": INT64}), ("Add", "b b", "a", {}), FLOATED),
    steps(INT64, ("Add", "x k", "a", {}), FLOATED),
    steps(UINT8, ("Max", "x k", "a", {}), FLOATED),
    steps(FLOAT, ("Shape", "x", "s", {}), ("Cast", "s", "c", {"to": INT32}),
          ("Add", "c c", "d", {}), ("Cast", "d", "y", {"to": FLOAT})),
])  # fmt: skip
def test_types_that_make_no_difference(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convc.load(model)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
@pytest.mark.parametrize("given", ["i8", "u4", "f4", "?"])
def test_casts_wrap_around(given: str, dtype: str) -> None:
    kinds = {"i8": INT64, "u4": 12, "f4": FLOAT, "?": 9}
    elements = {"u1": 2, "i1": 3, "u2": 4, "i2": 5, "u4": 12, "i4": 6}
    bounds = np.array([0, 1, 2**7, 2**8, 2**15, 2**16, 2**23, 2**31, 2**32], np.int64)
    numbers = np.concatenate([bounds - 1, bounds, bounds + 1, -bounds, 3 * bounds])
    if given == "u4":
        numbers = numbers % 2**32
    elif given == "f4":  # beyond the range, ONNX leaves open what becomes of floats
        info_of = np.iinfo(dtype)
        numbers = numbers[(numbers >= info_of.min) & (numbers <= min(info_of.max, 2**24))]
    elif given == "?":
        numbers = numbers % 2
    x = numbers.astype(given)
    node = make.make_node("Cast", ["x"], ["y"], to=elements[dtype])
    model = model_of([node], [info("x", ["N"], kinds[given])], [info("y", None, elements[dtype])])
    agrees(model, {"x": x}, {"y": x.astype(dtype)}, 0)


def refusal(model: Any) -> str:
    with pytest.raises(LoadError) as caught:
        convc.load(model)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["Sin", "Cos", "NonZero", "TopK"])
def test_operators_that_are_missing(kind: str) -> None:
    told = refusal(steps(FLOAT, (kind, "x", "y", {})))
    assert "convc has no such operator" in told
    assert "constants=" not in told


def test_how_to_fix_sizes_names_the_inputs() -> None:
    told = refusal(steps(FLOAT, ("Shape", "x", "s", {}), ("Cast", "s", "f", {"to": FLOAT}),
                         ("Sqrt", "f", "y", {})))  # fmt: skip
    assert "Sqrt(sizes[2] = (N, 3))" in told
    assert told.endswith("fix the sizes: shapes={'x': (N, 3)} with numbers for N")


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    b = ir.Builder("tested")
    b.output("y", b.relu(b.input("x", "f32[N]")))
    file = tmp_path / "none" / "a.onnx"
    with pytest.raises(ir.FileError, match="the folder does not exist; make it first"):
        convc.save(b.build(), file)


def test_sizes_to_bind_are_given_as_the_command_takes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    b = ir.Builder("tested")
    b.output("y", b.channel_pool(b.input("x", "f32[3, 4, H, 3]"), 2))
    source, made = tmp_path / "a.ir", tmp_path / "a.onnx"
    ir.save(b.build(), source)
    assert main(["convert", str(source), "-o", str(made)]) == 2
    assert "bind H, as in --sizes H=8" in capsys.readouterr().err
    assert main(["convert", str(source), "-o", str(made), "--sizes", "H=8"]) == 0
    assert str(convc.load(made).inputs["x"]) == "f32[3, 4, 8, 3]"
