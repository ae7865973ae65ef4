"""The algorithms that there are: the built-in ones, and those that installed packages bring."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from convc.algorithms import ALGORITHMS, Algorithm
from convc.errors import AlgorithmError

LOG = logging.getLogger("convc")
GROUP = "convc.algorithms"
NEEDED = ("name", "reorders_only", "supports", "seconds", "block", "wishes", "lower", "tolerance")

_registered: dict[str, Algorithm] = {}


@dataclass(frozen=True)
class PlugIn:
    """An entry point of an installed package; without an algorithm there is a problem."""

    name: str
    value: str
    package: str
    algorithm: Algorithm | None
    problem: str | None = None

    def __str__(self) -> str:
        return f"plug-in '{self.name}' ({self.value}, of {self.package})"


@cache
def plug_ins() -> tuple[PlugIn, ...]:
    """What the entry points of the group ``convc.algorithms`` name, broken ones too."""
    found: list[PlugIn] = []
    taken = {algorithm.name for algorithm in ALGORITHMS}
    for point in sorted(entry_points(group=GROUP)):
        each = _loaded(point, taken)
        if each.algorithm is not None:
            taken.add(each.algorithm.name)
        found.append(each)
    return tuple(found)


@cache
def algorithms() -> tuple[Algorithm, ...]:
    """All of them: built-in ones, those of plug-ins, those registered."""
    return _installed() + tuple(_registered.values())


@cache
def _installed() -> tuple[Algorithm, ...]:
    """The built-in algorithms and those of plug-ins; says once which plug-ins are left out."""
    for each in plug_ins():
        if each.problem is not None:
            LOG.warning("%s is left out: %s", each, each.problem)
    return ALGORITHMS + tuple(each.algorithm for each in plug_ins() if each.algorithm is not None)


def register(algorithm: Algorithm) -> None:
    """Offer an algorithm to every compilation in this process from now on.

    It takes the place of one that was registered under its name before. Raises
    ``AlgorithmError`` for what is no algorithm, and for a name of another origin.
    """
    problem = _problem(algorithm, {each.name for each in _installed()})
    if problem is not None:
        raise AlgorithmError(f"cannot be registered: {problem}")
    _registered[algorithm.name] = algorithm
    algorithms.cache_clear()
    source_of.cache_clear()


def origin(algorithm: Algorithm) -> str:
    """Whose an algorithm is, where something is wrong with it."""
    if algorithm in ALGORITHMS:
        return "part of convc, please report it"
    plug_in = next((each for each in plug_ins() if each.algorithm is algorithm), None)
    kind = type(algorithm)
    return f"{plug_in or f'of the class {kind.__module__}.{kind.__qualname__}'}, not part of convc"


@cache
def source_of(name: str) -> str:
    """A short digest of the source of an algorithm: of its class, those it is derived from, and
    their packages. Empty for an unknown algorithm."""
    found = next((each for each in algorithms() if each.name == name), None)
    if found is None:
        return ""
    modules = {sys.modules.get(kind.__module__) for kind in type(found).__mro__[:-1]}
    named = {getattr(module, "__file__", None) for module in modules}
    digest = hashlib.sha256()
    for file in sorted(file for file in named if file):
        path = Path(file)
        for each in sorted(path.parent.glob("*.py")) if path.stem == "__init__" else [path]:
            digest.update(each.read_bytes() if each.is_file() else b"")
    return digest.hexdigest()[:8]


def _loaded(point: EntryPoint, taken: Collection[str]) -> PlugIn:
    package = point.dist.name if point.dist is not None else "an unknown package"
    try:
        made = point.load()()
    except Exception as error:  # whatever a plug-in does, convc goes on without it
        return PlugIn(point.name, point.value, package, None, f"{type(error).__name__}: {error}")
    problem = _problem(made, taken)
    return PlugIn(point.name, point.value, package, None if problem else made, problem)


def _problem(made: object, taken: Collection[str]) -> str | None:
    if isinstance(made, type):
        return f"{made.__name__} is a class; give an instance of it, {made.__name__}()"
    lacking = [name for name in NEEDED if not hasattr(made, name)]
    if lacking:
        return f"{type(made).__name__} is no convc.algorithms.Algorithm: no {', '.join(lacking)}"
    name = getattr(made, "name", None)
    if name in taken:
        return f"there is an algorithm {name!r} already; give it another name"
    return None
