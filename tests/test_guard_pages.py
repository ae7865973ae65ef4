"""No kernel touches memory outside its buffers, or writes to what it is given to read."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from convc.backend.target import available

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")


def child(*arguments: str) -> subprocess.Popen[str]:
    """``tests.guard_pages`` in a process of its own, which may die."""
    command = [sys.executable, "-m", "tests.guard_pages", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def children() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One for each target, all at once."""
    running = {target: child(target) for target in available()}
    yield running
    for process in running.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("target", available())
def test_every_example_stays_inside_its_buffers(
    target: str, children: dict[str, subprocess.Popen[str]]
) -> None:
    """Inputs and constants are read-only; each buffer, temporaries too, has its own guard pages."""
    output, errors = children[target].communicate()
    last = output.splitlines()[-1:]
    assert (children[target].returncode, last) == (0, ["all held"]), f"in {last}:\n{errors}"


@pytest.mark.parametrize("where", ["before", "after", "frozen"])
def test_trespassing_is_fatal(where: str) -> None:
    """Without this, the test above would pass whatever kernels do."""
    process = child("trespass", where)
    process.communicate()
    assert process.returncode == -signal.SIGSEGV
