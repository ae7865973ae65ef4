"""Which passes run, and code of one's own: ``--passes``, ``--without`` and ``--plugin``."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from convc.errors import InputError
from convc.passes import PIPELINE, Pass, name_of
from ir.errors import did_you_mean

DEFAULT, NONE = "default", "none"
BUILT_IN = {name_of(each): each for each in PIPELINE}


def add_passes(parser: argparse.ArgumentParser) -> None:
    """``--passes LIST``, ``--without LIST`` and ``--plugin FILE``."""
    group = parser.add_argument_group("passes over the graph")
    group.add_argument(
        "--passes", metavar="LIST", default=DEFAULT,
        help=f"names with commas between: FILE.py:FUNCTION for your own, {DEFAULT} for all that "
        f"are built in, {NONE}, or any of {', '.join(BUILT_IN)} (default: {DEFAULT})",
    )  # fmt: skip
    group.add_argument(
        "--without", metavar="LIST", default="", help="passes to leave out, with commas between"
    )
    group.add_argument(
        "--plugin", metavar="FILE.py", action="append", default=[],
        type=lambda text: _module(Path(text), "--plugin"),
        help="run a file of Python first: ops and algorithms that it registers are known then",
    )  # fmt: skip


def passes_of(args: argparse.Namespace) -> tuple[Pass, ...]:
    """The passes to run, in order. Raises ``InputError`` for one that there is not."""
    wanted = [each for item in _items(args.passes) for each in _named(item)]
    names = [name_of(each) for each in wanted]
    left_out = _items(args.without)
    for name in left_out:
        if name not in names:
            raise InputError(f"--without {name}: no such pass would run{_hint(name, names)}")
    return tuple(each for each in wanted if name_of(each) not in left_out)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _named(item: str) -> Sequence[Pass]:
    if item == DEFAULT:
        return PIPELINE
    if item == NONE:
        return ()
    file, colon, function = item.rpartition(":")
    if colon:
        return (_from_file(Path(file), function),)
    if item not in BUILT_IN:
        hint = _hint(item, (DEFAULT, NONE, *BUILT_IN))
        own = "" if hint.endswith("?") else "; for a pass of your own write FILE.py:FUNCTION"
        raise InputError(f"--passes: no pass {item!r}{hint}{own}")
    return (BUILT_IN[item],)


def _hint(name: str, known: Sequence[str]) -> str:
    """The nearest of the known names, or those that contain it, or all."""
    parts = " or ".join(f"'{each}'" for each in known if len(name) > 2 and name.lower() in each)
    containing = f"; did you mean {parts}?" if parts else ""
    listed = f"; they are {', '.join(known) or NONE}"
    return did_you_mean(name.lower(), known) or containing or listed


def _from_file(file: Path, function: str) -> Pass:
    """A function of a file of Python, which is run."""
    module = _module(file, "--passes")
    found = getattr(module, function, None)
    if not callable(found):
        functions = inspect.getmembers(module, inspect.isfunction)
        names = [name for name, each in functions if each.__module__ == module.__name__]
        hint = did_you_mean(function, names) or f"; there are {', '.join(names) or NONE}"
        raise InputError(f"--passes: {file} has no function {function!r}{hint}")
    each: Pass = found
    return each


_MODULES: dict[tuple[Path, bytes], ModuleType] = {}  # files that have been run, as they were


def _module(file: Path, option: str) -> ModuleType:
    """What a file of Python defines, which is run once."""
    if not file.is_file():
        raise InputError(f"{option}: {file}: no such file")
    known = file.resolve(), file.read_bytes()
    if known not in _MODULES:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None:
            raise InputError(f"{option}: {file} is no file of Python; its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(spec.name, module)  # where dataclasses look for it
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise InputError(f"{option}: {file}: {type(error).__name__}: {error}") from error
        _MODULES[known] = module
    return _MODULES[known]
