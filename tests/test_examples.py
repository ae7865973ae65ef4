"""The examples run as they stand."""

import runpy
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

import ir
from convc import plugins
from convc.algorithms.bodies import BODIES

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What an example registers is gone after it."""
    changed = (plugins._registered, ir.OP_BY_NAME, BODIES)
    with mock.patch.dict(changed[0]), mock.patch.dict(changed[1]), mock.patch.dict(changed[2]):
        yield
    plugins.algorithms.cache_clear()
    plugins.source_of.cache_clear()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(path))
    assert capsys.readouterr().out
