"""What code is generated for: vector width, registers and features, never a processor's name."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass, replace

from convc.errors import TargetError

ITEM_BYTES = {"f32": 4, "f64": 8, "i64": 8}


@dataclass(frozen=True)
class Target:
    """A machine as the schedules see it; ``features`` is LLVM's feature string."""

    name: str
    triple: str
    cpu: str  # LLVM's baseline for the architecture
    features: str
    vector_bytes: int
    registers: int
    fused_multiply_add: bool = True

    def lanes(self, dtype: str) -> int:
        """Elements of ``dtype`` in one vector register."""
        return self.vector_bytes // ITEM_BYTES[dtype]


_AVX2 = "+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt,+f16c"
_AVX512 = _AVX2 + ",+avx512f,+avx512vl,+avx512dq,+avx512bw,+avx512cd"
_X86 = Target("plain", "x86_64-unknown-linux-gnu", "x86-64", "", 16, 16, False)
TARGETS = {
    "avx512": replace(_X86, name="avx512", features=_AVX512, vector_bytes=64, registers=32,
                      fused_multiply_add=True),
    "avx2": replace(_X86, name="avx2", features=_AVX2, vector_bytes=32, fused_multiply_add=True),
    "plain": _X86,
    "neon": Target("neon", "aarch64-unknown-linux-gnu", "generic", "", 16, 32),
}  # fmt: skip
_AVX2_NAMES = {"sse4.2", "avx", "avx2", "fma", "bmi", "bmi2", "lzcnt", "f16c", "popcnt"}
REQUIRED = {  # host features a target needs, as LLVM names them
    "avx512": _AVX2_NAMES | {"avx512f", "avx512vl", "avx512dq", "avx512bw", "avx512cd"},
    "avx2": _AVX2_NAMES,
    "plain": set(),
    "neon": set(),
}
_MACHINES = {
    "x86_64": ("avx512", "avx2", "plain"),
    "amd64": ("avx512", "avx2", "plain"),
    "aarch64": ("neon",),
    "arm64": ("neon",),
}


@functools.cache
def host_features() -> frozenset[str]:
    """The features that the running processor reports."""
    from llvmlite import binding

    return frozenset(name for name, present in binding.get_host_cpu_features().items() if present)


def available() -> tuple[str, ...]:
    """Names of the targets whose code runs here, best first."""
    names = _MACHINES.get(platform.machine().lower(), ())
    return tuple(name for name in names if REQUIRED[name] <= host_features())


def check_runnable(target: Target) -> None:
    """``TargetError`` where code for the target does not run here."""
    if target.name not in available():
        raise TargetError(f"code for {target.name} does not run on this machine; "
                          f"its targets are {', '.join(available())}")  # fmt: skip


def target_named(name: str | None = None) -> Target:
    """The target of that name, else of ``CONVC_TARGET``, else the best one for this machine.

    Raises ``TargetError`` for an unknown name.
    """
    from llvmlite import binding

    given, name = name, name or os.environ.get("CONVC_TARGET")
    if name is None:
        runnable = available()
        if not runnable:
            raise TargetError(
                f"no target for machine {platform.machine()!r}; known: {sorted(_MACHINES)}"
            )
        name = runnable[0]
    if name not in TARGETS:
        source = "" if given else " in CONVC_TARGET"
        raise TargetError(f"unknown target {name!r}{source}; one of {', '.join(TARGETS)}")
    if name in available():  # the process's own triple: its object format and calling convention
        return replace(TARGETS[name], triple=binding.get_process_triple())
    return TARGETS[name]
