"""``convc doctor``: what convc finds on this machine, and whether its code is right here."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
from llvmlite import binding

import convc
import ir
from convc import settings
from convc.backend.objects import objects
from convc.backend.target import REQUIRED, available, host_features, target_named
from convc.plan import total_bytes
from convc.plugins import plug_ins
from convc.tools import arguments, memory
from convc.tools.accuracy import random_inputs
from convc.tools.peers.packages import INSTALL
from convc.tools.table import json_text, nbytes, pairs, table
from convc.tools.verification import check_graph
from convc.tuning.database import database

DESCRIPTION = """\
Print versions, plug-ins, the machine, the targets whose code runs here, threads, memory, caches
and every CONVC_ variable; then compile a small convolution for each target that runs here and
compare it with the interpreter. Put the output into a report of a problem. Exit status 1 when a
target's code is wrong, or none can be used."""
EXAMPLE = "  convc doctor\n  convc doctor --json"
PACKAGES = ("numpy", "llvmlite", "networkx")
EXTRAS = {  # as pyproject.toml has them, those for users
    "onnx": ("onnx",),
    "cli": ("rich",),
    "plot": ("matplotlib",),
    "bench": ("onnx", "onnxruntime", "openvino"),
}
Facts: TypeAlias = "dict[str, Any]"


def add_parser(subparsers: arguments.Subparsers) -> None:
    """Add the command to the command line."""
    parser = arguments.new_parser(
        subparsers, "doctor", "print what convc finds here, and test it", DESCRIPTION, EXAMPLE
    )
    arguments.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    found = facts()
    print(json_text(found) if args.json else _text(found))
    tests = found["self-test"]
    return 0 if tests and all(test["passed"] for test in tests) and _usable(found) else 1


def facts() -> dict[str, Any]:
    """Everything the command prints, by section."""
    return {
        "versions": _versions(),
        "extras": _extras(),
        "plug-ins": _plug_ins(),
        "machine": _machine(),
        "targets": _targets(),
        "threads": _threads(),
        "memory": _memory(),
        "caches": {
            "compiled code": str(objects() or "none (CONVC_CACHE=off)"),
            "tuning database": str(database()),
        },
        "variables": [
            {
                "name": v.name,
                "value": v.value,
                "default": v.default,
                "meaning": v.meaning,
                "problem": v.problem,
            }
            for v in settings.VARIABLES
        ],
        "self-test": [_self_test(name) for name in available()],
    }


def _versions() -> Facts:
    packages = {name: _version(name) or "not installed" for name in PACKAGES}
    llvm = ".".join(map(str, binding.llvm_version_info))
    return {"convc": convc.__version__, "python": platform.python_version(), **packages,
            "LLVM": llvm}  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _extras() -> Facts:
    """Each optional package, and each that only ``convc bench --vs`` uses; none is imported."""
    installs = dict[str, str]()
    for extra, packages in EXTRAS.items():  # the first that has a package is the smallest
        for package in packages:
            installs.setdefault(package, f'pip install "convc[{extra}]"')
    ways = INSTALL | installs
    return {package: _installed(package, install) for package, install in ways.items()}


def _installed(package: str, install: str) -> str:
    """The version, or the line that installs a package."""
    version = _version(package)
    if find_spec(package) is not None:
        return version or "installed"
    return f"{version}, which lacks its module" if version else f"not installed: {install}"


def _plug_ins() -> Facts:
    """The algorithms that other packages bring, and what is wrong with those left out."""
    return {
        each.name: f"{each.value}, of {each.package}"
        + (f"; WRONG, left out: {each.problem}" if each.problem else "")
        for each in plug_ins()
    } or {"algorithms": None}


def _machine() -> Facts:
    features = sorted(set().union(*REQUIRED.values()))
    present = [name for name in features if name in host_features()]
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": binding.get_host_cpu_name(),
        "features": " ".join(present) or "none that a target needs",
    }


def _targets() -> Facts:
    lines: Facts = {}
    for name, needed in REQUIRED.items():
        lacking = " ".join(sorted(needed - host_features()))
        other = f"lacks {lacking}" if lacking else "another architecture"
        lines[name] = "runs here" if name in available() else f"does not run here: {other}"
    try:
        chosen = target_named()
    except ir.Error as error:
        return {**lines, "chosen": None, "problem": str(error)}
    return {**lines, "chosen": chosen.name,
            "lanes": f"{chosen.lanes('f32')} float32, {chosen.lanes('f64')} float64"}  # fmt: skip


def _threads() -> Facts:
    names = ("CONVC_NUM_THREADS", "OMP_NUM_THREADS")
    return {
        "processors of the machine": os.cpu_count(),
        "processors of this process (affinity)": settings.affinity(),
        "processors by control group": settings.quota() or "no limit",
        **{name: os.environ.get(name, "not set") for name in names},
        "threads of a model": _or_problem(settings.default_threads),
    }


def _or_problem(get: Callable[[], int]) -> int | str:
    try:
        return get()
    except ir.Error as error:
        return f"WRONG: {error}"


def _memory() -> Facts:
    limit = memory.limit_bytes()
    return {
        "of the machine": nbytes(total_bytes()),
        "available": nbytes(memory.available_bytes()),
        "limit by control group": "none" if limit is None else nbytes(limit),
    }


def _self_test(target: str) -> Facts:
    """Compile a small convolution for a target and compare it with the interpreter."""
    b = ir.Builder("self_test")
    x = b.input("x", "f32[2, 3, 8, 9]")
    w = b.weight("w", np.random.default_rng(0).standard_normal((5, 3, 3, 3), np.float32))
    b.output("y", b.relu(b.conv(x, w, pad=1)))
    graph = b.build()
    try:
        (found,) = check_graph(graph, random_inputs(graph), target=target)
    except Exception as error:  # a report of whatever is wrong is what this command is for
        return {"target": target, "passed": False, "result": f"{type(error).__name__}: {error}"}
    result = found.note or f"relative error {found.relative:.1e}"
    return {"target": target, "passed": found.passed, "result": result}


# ---------------------------------------------------------------- as text


def _text(found: Mapping[str, Any]) -> str:
    parts = [
        f"{name}\n{pairs(_shown(section))}" for name, section in found.items()
        if isinstance(section, dict)
    ]  # fmt: skip
    variables = [
        (v["name"], "(not set)" if v["value"] is None else v["value"], v["default"], v["meaning"])
        for v in found["variables"]
    ]
    parts.append(table(("variable", "value", "default", "meaning"), variables))
    parts += [f"WRONG: {v['problem']}" for v in found["variables"] if v["problem"]]
    parts.append("self-test\n" + (pairs(_verdicts(found["self-test"])) or "  no target runs here"))
    return "\n\n".join(parts)


def _shown(section: Facts) -> list[tuple[str, object]]:
    return [(name, "none" if value is None else value) for name, value in section.items()]


def _verdicts(tests: Sequence[Facts]) -> list[tuple[str, object]]:
    return [
        (test["target"], f"{'ok' if test['passed'] else 'WRONG'}: {test['result']}")
        for test in tests
    ]


def _usable(found: Mapping[str, Any]) -> bool:
    return found["targets"]["chosen"] in available()
