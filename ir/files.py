"""Graphs on disk: `model.ir` holds the text, `model.safetensors` beside it the weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from ir.errors import Error, FileError, ParseError, WeightsError
from ir.graph import Graph
from ir.safetensors import read_tensors, write_atomically, write_tensors
from ir.text import parse, to_text

FilePath: TypeAlias = str | os.PathLike[str]


def save(graph: Graph, path: FilePath) -> None:
    """Write the text to `path`, which ends in `.ir`, and the weights beside it.

    Error for another ending, FileError where it cannot be written.
    """
    text, weights = _pair(path)
    if not text.parent.is_dir():
        raise FileError(f"{text}: the folder does not exist; make it first")
    try:
        write_tensors(weights, graph.weights)
        write_atomically(text, [to_text(graph).encode()])
    except OSError as error:  # it names the file that is renamed in the end
        raise FileError(f"{text}: cannot be written: {error.strerror}") from error


def load(path: FilePath) -> Graph:
    """The graph that `save` wrote to `path`; the weights file may lack when there are none.

    Raises ParseError for the text, WeightsError for the weights, each with the file's name;
    FileError for a file that cannot be read, Error for a path that does not end in `.ir`.
    """
    text, weights = _pair(path)
    try:
        source = text.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"{text}: cannot be read: {error.strerror}") from error
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
    """The two files of a graph, from the path of the first; Error unless that ends in `.ir`."""
    text = Path(path)
    if "\0" in str(text):
        raise FileError(f"{str(text)!r}: a name with a null character is no file's")
    if text.suffix != ".ir":
        hint = f"did you mean '{text.with_suffix('.ir') if text.suffix else f'{text}.ir'}'?"
        raise Error(f"'{text}' does not end in .ir, as the file of a graph does; {hint}")
    return text, text.with_suffix(".safetensors")
