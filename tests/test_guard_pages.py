"""No kernel touches memory outside its buffers, or writes to what it is given to read."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convc.backend.target import available

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")


def child(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``tests.guard_pages`` in a process of its own, which may die."""
    command = [sys.executable, "-m", "tests.guard_pages", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("target", available())
def test_every_example_stays_inside_its_buffers(target: str) -> None:
    """Inputs and constants are read-only; each buffer, temporaries too, has its own guard pages."""
    finished = child(target)
    last = finished.stdout.splitlines()[-1:]
    assert (finished.returncode, last) == (0, ["all held"]), f"in {last}:\n{finished.stderr}"


@pytest.mark.parametrize("where", ["before", "after", "frozen"])
def test_trespassing_is_fatal(where: str) -> None:
    """Without this, the test above would pass whatever kernels do."""
    assert child("trespass", where).returncode == -signal.SIGSEGV
