"""What is remembered: seconds of an algorithm for an op, under a machine; and as lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import convc
import ir
from convc.backend.target import Target
from convc.errors import LoadError
from convc.plugins import source_of
from ir.text import op_text

Times: TypeAlias = Mapping[str, Mapping[str, float]]
"""Seconds by key (see ``key_of``) and algorithm; infinite for one that gave wrong numbers."""
REFUSED = math.inf
ALONE = "one thread: "
LARGEST_COUNT = 1 << 62  # of threads: what a database column holds


@dataclass(frozen=True)
class Context:
    """What a time depends on beside the op: code, threads, and this version's algorithms."""

    target: str
    triple: str
    threads: int
    version: str

    @staticmethod
    def of(target: Target, threads: int) -> Context:
        return Context(target.name, target.triple, threads, convc.__version__)

    def __str__(self) -> str:
        return f"{self.target} ({self.triple}), threads: {self.threads}, convc {self.version}"


@dataclass(frozen=True, order=True)
class Row:
    """One time. Rows sort by all that makes them distinct.

    ``source`` is a digest of the algorithm's code: a time of other code counts no more.
    """

    signature: str
    target: str
    triple: str
    threads: int
    version: str
    algorithm: str
    source: str
    seconds: float

    @property
    def context(self) -> Context:
        return Context(self.target, self.triple, self.threads, self.version)

    def problem(self) -> str | None:
        """What is wrong with the content, if anything is."""
        for field in fields(self):
            value, kind = getattr(self, field.name), field.type
            wanted = {"str": str, "int": int, "float": float}[str(kind)]
            if type(value) is not wanted:
                return f"{field.name} is {value!r}, not of type {kind}"
        if not 1 <= self.threads < LARGEST_COUNT:
            return f"threads is {self.threads}"
        return None if self.seconds > 0 else f"seconds is {self.seconds}"


def signature(graph: ir.Graph, node: ir.Node) -> str:
    """The op with its epilogue, the types it meets, and which operands are constant."""
    operands = ", ".join(
        f"{'const ' if name in graph.weights else ''}{graph.types[name]}" for name in node.inputs
    )
    results = ", ".join(str(graph.types[name]) for name in node.outputs)
    return f"{op_text(node.op)} : ({operands}) -> {results}"


def key_of(signature: str, alone: bool) -> str:
    """What times for an op stand under in ``Times``. ``alone``: those on one thread, of an op that
    so runs for one image while other threads have others, in a model on several threads."""
    return f"{ALONE}{signature}" if alone else signature


def rows(context: Context, name: str, times: Mapping[str, float]) -> list[Row]:
    """Times of one signature as rows, to four digits: beyond them is noise."""
    machine = (context.target, context.triple, context.threads, context.version)
    return [
        Row(name, *machine, algorithm, source_of(algorithm), float(f"{seconds:.4g}"))
        for algorithm, seconds in times.items()
    ]


def times_of(given: Iterable[Row], context: Context) -> dict[str, dict[str, float]]:
    """The times among the rows that were taken under ``context``, or on one thread, of code as it
    is now."""
    found: dict[str, dict[str, float]] = {}
    for row in given:
        alone = row.context != context
        wanted = not alone or row.context == replace(context, threads=1)
        if wanted and row.source == source_of(row.algorithm):
            found.setdefault(key_of(row.signature, alone), {})[row.algorithm] = row.seconds
    return found


# ---------------------------------------------------------------- lines of JSON


def to_lines(given: Iterable[Row]) -> str:
    """One line for each row, sorted: the same rows always give the same text."""
    return "".join(f"{_line(row)}\n" for row in sorted(given))


def read_lines(path: Path) -> tuple[Row, ...]:
    """The rows in a file of ``to_lines``. Raises ``LoadError`` with the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise LoadError(f"{path}: cannot read measurements: {reason}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return tuple(_parsed(line, f"{path}, line {number}") for number, line in numbered)


def _line(row: Row) -> str:
    seconds = None if row.seconds == REFUSED else row.seconds
    return json.dumps({**asdict(row), "seconds": seconds}, allow_nan=False)


def _parsed(line: str, where: str) -> Row:
    names = [field.name for field in fields(Row)]
    try:
        read: dict[str, Any] = json.loads(line)
        given = {name: read[name] for name in names}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        hint = f"expected an object with {', '.join(names)}"
        raise LoadError(f"{where}: not a measurement; {hint}") from error
    if given["seconds"] is None:
        given["seconds"] = REFUSED
    elif type(given["seconds"]) is int and abs(given["seconds"]) < LARGEST_COUNT:
        given["seconds"] = float(given["seconds"])
    row = Row(**given)
    problem = row.problem()
    if problem:
        raise LoadError(f"{where}: {problem}")
    return row
