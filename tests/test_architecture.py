"""What may depend on what, and the shape of the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for package in ("ir", "convc") for path in (ROOT / package).rglob("*.py"))
FILES = [*MODULES, *(path for folder in ("tests", "examples")
                     for path in sorted((ROOT / folder).rglob("*.py")))]  # fmt: skip
OPTIONAL = {"matplotlib", "onnx", "onnxruntime", "openvino", "rich", "safetensors", "scipy"}
OPTIONAL |= {"torch"}
DIAGNOSTICS = {"convc.tools.doctor"}


def name_of(path: Path) -> str:
    """A module's dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, lazy: bool = True) -> Iterator[str]:
    """The dotted names that a module imports; without ``lazy``, only when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if lazy else at_import(tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """The statements that run on import: not those in functions or under TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for field in ("body", "orelse", "finalbody", "handlers"):
            yield from at_import(getattr(node, field, []))


def tops(path: Path, lazy: bool = True) -> set[str]:
    """The packages that a module imports, without the standard library."""
    return {name.split(".")[0] for name in imports(path, lazy)} - sys.stdlib_module_names


def within(path: Path, package: str) -> bool:
    return name_of(path) == package or name_of(path).startswith(f"{package}.")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_has_a_docstring_and_fits_on_a_few_pages(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def test_ir_depends_on_numpy_and_when_asked_for_networkx() -> None:
    for path in MODULES:
        if within(path, "ir"):
            assert tops(path) <= {"ir", "numpy", "networkx"}, path
            assert tops(path, lazy=False) <= {"ir", "numpy"}, path


def test_only_the_back_end_knows_llvm() -> None:
    """The doctor reports its version."""
    users = {name_of(path) for path in MODULES if "llvmlite" in tops(path)}
    assert {name for name in users if not name.startswith("convc.backend.")} <= DIAGNOSTICS


def test_no_module_needs_an_optional_package_to_be_imported() -> None:
    for path in MODULES:
        assert not tops(path, lazy=False) & OPTIONAL, path


LAYERS = (
    ("ir", {"convc"}),
    ("convc.layout", {"convc.algorithms", "convc.lowering", "convc.runtime"}),
    ("convc.schedule", {"convc.algorithms", "convc.lowering", "convc.runtime"}),
    ("convc.algorithms", {"convc.select", "convc.plan", "convc.runtime", "convc.model"}),
    ("convc.passes", {"convc.algorithms", "convc.lowering", "convc.backend", "convc.runtime"}),
    ("convc.backend.emit", {"convc.algorithms", "convc.lowering", "convc.schedule"}),
    ("convc.backend.jit", {"convc.algorithms", "convc.lowering", "convc.schedule"}),
    ("convc.lowering", {"convc.plan", "convc.runtime", "convc.model"}),
    ("convc.plan", {"convc.runtime", "convc.model"}),
    ("convc.runtime", {"convc.model", "convc.algorithms", "convc.select"}),
    ("convc.model", {"convc.cli", "convc.tools", "convc.train"}),
)


@pytest.mark.parametrize(("package", "above"), LAYERS, ids=[name for name, _ in LAYERS])
def test_a_layer_does_not_import_what_is_above_it(package: str, above: set[str]) -> None:
    modules = [path for path in MODULES if within(path, package)]
    assert modules
    for path in modules:
        for name in imports(path, lazy=False):
            assert not any(name == each or name.startswith(f"{each}.") for each in above), path


def test_importing_convc_loads_no_optional_package() -> None:
    code = "import sys, ir; from convc import *; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & (OPTIONAL | {"networkx", "hypothesis", "pytest"})
    assert {"numpy", "convc", "ir"} <= loaded


def test_importing_ir_loads_no_compiler() -> None:
    code = "import sys, ir, ir.loops; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & (OPTIONAL | {"networkx", "convc", "llvmlite"})


def test_the_packages_cross_no_wires_in_tests_either() -> None:
    """Tests of ``ir`` need nothing of ``convc``."""
    for path in (ROOT / "tests" / "ir").glob("*.py"):
        assert "convc" not in tops(path), path
