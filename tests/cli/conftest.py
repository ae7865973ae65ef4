"""A model and its inputs on disk."""

import numpy as np
import pytest

from tests.cli.commands import network


@pytest.fixture
def model(tmp_path):
    network().save(tmp_path / "network.ir")
    return tmp_path / "network.ir"


@pytest.fixture
def arrays(tmp_path):
    """Inputs of the network in files: the arguments, and the arrays."""
    rng = np.random.default_rng(1)
    given = {
        "x": rng.standard_normal((3, 1, 8, 8), np.float32),
        "labels": rng.integers(0, 5, 3),
    }
    for name, array in given.items():
        np.save(tmp_path / f"{name}.npy", array)
    return [f"--input={name}={tmp_path / name}.npy" for name in given], given
