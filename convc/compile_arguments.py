"""What ``convc.compile`` is given, checked before anything is done with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import ir
from convc.errors import InputError
from ir.types import described

LONGEST = 1e9  # seconds of tuning: a lifetime


def check_graph(graph: object) -> None:
    """InputError unless it is an ``ir.Graph``."""
    if isinstance(graph, ir.Graph):
        return
    hint = "make one with ir.Builder or convc.load"
    if isinstance(graph, ir.Builder):
        hint = "finish it: builder.build()"
    elif isinstance(graph, str | os.PathLike):
        hint = "read it first: convc.load(path)"
    raise InputError(f"graph must be an ir.Graph, not {described(graph)}; {hint}")


def check_threads(threads: object) -> None:
    """InputError unless it is None or an int of at least 1."""
    if threads is not None and not _is_positive(threads):
        hint = "give 1 or more as an int, or None for the default"
        raise InputError(f"threads={described(threads)}: {hint}")


def _is_positive(value: object) -> bool:
    """Whether it is an int above 0; no bool is one."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def check_memory(memory: object) -> None:
    """InputError unless it is None or a positive int."""
    if memory is not None and not _is_positive(memory):
        hint = "give a number of bytes as an int, as in 256 << 20, or None for no limit"
        raise InputError(f"memory={described(memory)}: {hint}")


def check_tuning(tune: object, tuning: object) -> None:
    """InputError unless ``tune`` is a bool or a number of seconds and ``tuning`` None or a path;
    or if both are given."""
    if not (isinstance(tune, int | float) and 0 <= tune < LONGEST):  # a bool is real
        raise InputError(f"tune={described(tune)}: give True, False, or seconds to spend")
    if tuning is not None and not isinstance(tuning, str | os.PathLike):
        raise InputError(f"tuning={described(tuning)}: give the path of a file, or None")
    if tune and tuning is not None:
        raise InputError("tune= measures into the database, which tuning= does not read; give one")


def check_by_image(by_image: object) -> None:
    """InputError unless it is True or False."""
    if not isinstance(by_image, bool):
        raise InputError(f"by_image={described(by_image)}: give True or False")


def check_algorithms(algorithms: object) -> None:
    """InputError unless it is None or maps names to names."""
    hint = 'give node names with algorithm names, as in {"conv1": "winograd"}'
    if algorithms is None:
        return
    if not isinstance(algorithms, Mapping):
        raise InputError(f"algorithms={described(algorithms)}: {hint}")
    for name, algorithm in algorithms.items():
        if not (isinstance(name, str) and isinstance(algorithm, str)):
            pair = f"{described(name)}: {described(algorithm)}"
            raise InputError(f"algorithms has {pair}; {hint}")


def check_passes(passes: object) -> None:
    """InputError unless it is a sequence of what can be called."""
    if not isinstance(passes, Sequence) or isinstance(passes, str):
        hint = "give a sequence of functions from graph to graph, as in (*PIPELINE, my_pass)"
        raise InputError(f"passes={described(passes)}: {hint}")
    for number, each in enumerate(passes):
        if not callable(each):
            hint = "a pass is a function from graph to graph"
            raise InputError(f"passes[{number}] is {described(each)}; {hint}")
