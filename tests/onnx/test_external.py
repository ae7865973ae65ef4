"""Weights in files beside a model: where they may lie, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convc.frontends.onnx import load
from tests.onnx.models import FLOAT, onnx
from tests.onnx.test_malformed import HUGE, refuses, with_weight


def stored_beside(location: str, offset: object = 0, length: object = 8, size: int = 2) -> Any:
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    pairs = [onnx.StringStringEntryProto(key=key, value=value) for key, value in entries.items()]
    return with_weight(
        onnx.TensorProto(
            name="w", data_type=FLOAT, dims=[size], data_location=1, external_data=pairs
        )
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a model, with a file of 16 bytes inside and one beside it, and links."""
    inside = tmp_path / "model"
    (inside / "deeper").mkdir(parents=True)
    for path in (inside / "weights", tmp_path / "secret"):
        path.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (inside / "out").symlink_to(tmp_path / "secret")
    (inside / "up").symlink_to("..")
    (inside / "link").symlink_to("weights")
    (inside / "round").symlink_to("round")
    return inside


def written(folder: Path, model: Any) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("location", "offset"), [("weights", 4), ("link", 8), ("weights", 8)])
def test_weights_beside_the_model(folder: Path, location: str, offset: int) -> None:
    graph = load(written(folder, stored_beside(location, offset)))
    (weight,) = graph.weights.values()
    assert weight.tolist() == [offset / 4, offset / 4 + 1]


@pytest.mark.parametrize(("location", "offset", "length", "size", "reason"), [
    ("{outside}/secret", 0, 8, 2, "only files inside the folder"),
    ("../secret", 0, 8, 2, "only files inside the folder"),
    ("deeper/../weights", 0, 8, 2, "only files inside the folder"),
    ("..\\secret", 0, 8, 2, "only files inside the folder"),
    ("C:\\secret", 0, 8, 2, "only files inside the folder"),
    ("", 0, 8, 2, "only files inside the folder"),
    ("out", 0, 8, 2, "leads out of the folder"),
    ("up/secret", 0, 8, 2, "leads out of the folder"),
    ("round", 0, 8, 2, "cannot be read"),
    ("missing", 0, 8, 2, "cannot be read"),
    ("deeper", 0, 8, 2, "not a regular file|cannot be read"),
    ("weights", 12, 8, 2, "too short"),
    ("weights", HUGE, 8, 2, "too short"),
    ("weights", -4, 8, 2, "not a number of bytes"),
    ("weights", "4x", 8, 2, "not a number of bytes"),
    ("weights", "9" * 99, 8, 2, "not a number of bytes"),
    ("weights", 0, 4, 2, "4 bytes for a tensor of 8"),
    ("weights", 0, 2**40, 2**38, "too short"),
])  # fmt: skip
def test_weights_that_lie_elsewhere(
    folder: Path, location: str, offset: object, length: object, size: int, reason: str
) -> None:
    location = location.format(outside=folder.parent)
    refuses(written(folder, stored_beside(location, offset, length, size)), reason)


def test_weights_beside_a_model_that_lies_nowhere() -> None:
    refuses(stored_beside("weights"), "load the model from its file")


def test_one_part_of_a_file_is_not_many_weights(folder: Path) -> None:
    """A small file cannot become large in memory."""
    model = stored_beside("weights", 0)
    for number, offset in enumerate((4, 8)):
        other = stored_beside("weights", offset).graph.initializer[0]
        other.name = f"v{number}"
        model.graph.initializer.append(other)
    refuses(written(folder, model), "overlap")
