"""Every environment variable that convc reads, and the threads it may use."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from convc.errors import InputError


@dataclass(frozen=True)
class Variable:
    """One variable; ``allowed`` where its value is a whole number."""

    name: str
    default: str
    meaning: str
    allowed: range | None = None

    @property
    def value(self) -> str | None:
        return os.environ.get(self.name)

    @property
    def problem(self) -> str | None:
        """Why the value cannot be used; None where it can, or where there is none."""
        text = (self.value or "").strip()
        if self.allowed is None or not text or _number(text) in self.allowed:
            return None
        wanted = f"a whole number from {self.allowed[0]} to {self.allowed[-1]}"
        return f"{self.name}={self.value!r:.60} must be {wanted}"

    def number(self) -> int | None:
        """The value of a variable that is a number, None where it is not set.

        Raises ``InputError`` for any other value.
        """
        if self.problem:
            raise InputError(f"{self.problem}, or not set (an environment variable)")
        return _number((self.value or "").strip())


VARIABLES = (
    Variable("CONVC_NUM_THREADS", "cores this process may use", "threads of a compiled model",
             range(1, 65537)),
    Variable("CONVC_TARGET", "best for this machine", "avx512, avx2, plain or neon"),
    Variable("CONVC_SPIN_US", "50", "microseconds a waiting thread spins before it sleeps",
             range(1_000_001)),
    Variable("CONVC_SPECIALISATIONS", "8", "sizes for which a symbolic model keeps code",
             range(1, 1_000_001)),
    Variable("CONVC_CACHE", "$XDG_CACHE_HOME/convc, ~/.cache/convc",
             "folder of compiled code and measured times, 'off' for none"),
    Variable("CONVC_CACHE_MIB", "256", "most MiB of compiled code to keep there, 0 for none",
             range(1_000_001)),
    Variable("CONVC_LOG", "warning", "level of the logger 'convc': debug, info, warning, error"),
    Variable("CONVC_DEBUG", "0", "1 algorithms, 2 graph per pass, 3 loops, 4 LLVM, 5 assembly",
             range(6)),
)  # fmt: skip


def number(name: str) -> int:
    """The value of an integer variable, else its default; ``InputError`` for a wrong one."""
    variable = _variable(name)
    given = variable.number()
    return int(variable.default) if given is None else given


def _variable(name: str) -> Variable:
    return next(variable for variable in VARIABLES if variable.name == name)


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 10 else None


def usable_threads(wanted: int) -> int:
    """A number of threads that a run can put to use: not many more than there are processors."""
    return max(1, min(wanted, 4 * (os.cpu_count() or 1)))


def default_threads() -> int:
    """CONVC_NUM_THREADS, else OMP_NUM_THREADS, else what affinity and the cgroup quota allow.

    ``InputError`` for a wrong value of the first; a wrong one of the second counts as unset.
    """
    given = _variable("CONVC_NUM_THREADS").number()
    if given is None:
        given = _number(os.environ.get("OMP_NUM_THREADS", "").strip())
    return given or max(1, min(affinity(), quota() or affinity()))


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
