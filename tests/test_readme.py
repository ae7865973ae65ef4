"""The Python in README.md runs as it stands, and does what the text beside it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ir
from tests.cli.commands import status

README = Path(__file__).parents[1] / "README.md"


def test_the_python_runs_and_its_training_goes_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    for seed in range(3):
        np.random.seed(seed)
        names: dict[str, Any] = {}
        for block in blocks:
            exec(block, names)
        np.testing.assert_allclose(names["y"], names["ref"], rtol=1e-3, atol=1e-4)
        losses = names["losses"]
        assert losses[-1] < 0.9 * losses[0] and losses == sorted(losses, reverse=True)


def test_sizes_are_written_as_the_commands_take_them(tmp_path: Path) -> None:
    b = ir.Builder("sized")
    b.output("y", b.relu(b.input("x", "f32[N, 3, H, W]")))
    b.build().save(tmp_path / "sized.ir")
    written = re.findall(r"--sizes ([^`]*)`", README.read_text("utf-8"))
    assert "H=64,W=64" in written
    for number, sizes in enumerate(written):
        into = tmp_path / f"{number}.ir"
        assert status("convert", tmp_path / "sized.ir", "-o", into, "--sizes", *sizes.split()) == 0
        shape = ir.load(into).types["x"].shape
        given = dict(each.split("=") for each in sizes.split(","))
        assert [str(extent) for extent in shape] == [given.get(n, n) for n in ("N", "3", "H", "W")]
