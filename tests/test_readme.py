"""The Python in README.md runs as it stands, and does what the text beside it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
