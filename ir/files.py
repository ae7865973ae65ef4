"""Graphs on disk: `model.ir` holds the text, `model.safetensors` beside it the weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from ir.errors import ParseError, WeightsError
from ir.graph import Graph
from ir.safetensors import read_tensors, write_atomically, write_tensors
from ir.text import parse, to_text

FilePath: TypeAlias = str | os.PathLike[str]


def save(graph: Graph, path: FilePath) -> None:
    """Write the text to `path` (with `.ir` appended if it lacks it) and the weights beside it."""
    text, weights = _pair(path)
    write_tensors(weights, graph.weights)
    write_atomically(text, [to_text(graph).encode()])


def load(path: FilePath) -> Graph:
    """The graph that `save` wrote to `path`; the weights file may lack when there are none.

    Raises ParseError for the text, WeightsError for the weights, each with the file's name.
    """
    text, weights = _pair(path)
    try:
        source = text.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ParseError(f"'{text}' is not UTF-8 text: {error}") from error
    tensors = read_tensors(weights) if weights.exists() else {}
    try:
        return parse(source, tensors)
    except WeightsError as error:
        where = str(weights) if weights.exists() else f"{weights} (no such file)"
        raise error.within(where) from error
    except ParseError as error:
        raise error.within(str(text)) from error


def _pair(path: FilePath) -> tuple[Path, Path]:
    """The two files of a graph, from the path of the first with or without its ending."""
    stem = os.fspath(path).removesuffix(".ir")
    return Path(f"{stem}.ir"), Path(f"{stem}.safetensors")
