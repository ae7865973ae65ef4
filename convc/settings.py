"""Every environment variable that convc reads, and the threads it may use."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Variable:
    name: str
    default: str
    meaning: str

    @property
    def value(self) -> str | None:
        return os.environ.get(self.name)


VARIABLES = (
    Variable("CONVC_NUM_THREADS", "cores this process may use", "threads of a compiled model"),
    Variable("CONVC_TARGET", "best for this machine", "avx512, avx2, plain or neon"),
    Variable("CONVC_SPIN_US", "50", "microseconds a waiting thread spins before it sleeps"),
    Variable("CONVC_SPECIALISATIONS", "8", "sizes for which a symbolic model keeps code"),
    Variable("CONVC_CACHE", "$XDG_CACHE_HOME/convc, ~/.cache/convc",
             "folder of measured times, 'off' for none"),
    Variable("CONVC_LOG", "warning", "level of the logger 'convc': debug, info, warning, error"),
    Variable("CONVC_DEBUG", "0", "1 algorithms, 2 graph per pass, 3 loops, 4 LLVM, 5 assembly"),
)  # fmt: skip


def number(name: str) -> int:
    """The value of an integer variable, else its default; not a number counts as unset."""
    default = next(v.default for v in VARIABLES if v.name == name)
    text = os.environ.get(name, default)
    return int(text) if text.isdecimal() else int(default)


def usable_threads(wanted: int) -> int:
    """A number of threads that a run can put to use: not many more than there are processors."""
    return max(1, min(wanted, 4 * (os.cpu_count() or 1)))


def default_threads() -> int:
    """CONVC_NUM_THREADS, else OMP_NUM_THREADS, else what affinity and the cgroup quota allow."""
    for name in ("CONVC_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "")
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return max(1, min(affinity(), quota() or affinity()))


def affinity() -> int:
    """Processors that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota() -> int | None:
    """Processors that the control group grants, rounded up; None if it sets no limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.ceil(int(limit) / int(period)) if limit != "max" else None
    except (OSError, ValueError):
        return None


def cache_folder() -> Path | None:
    """The folder for what is worth keeping between processes; None for none. It may not exist.

    As the XDG specification has it, a relative $XDG_CACHE_HOME does not count.
    """
    text = os.environ.get("CONVC_CACHE", "")
    if text:
        return None if text == "off" else Path(text)
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "convc"
    except RuntimeError:  # no home
        return None
