"""Models in: by the suffix of their file."""

from __future__ import annotations

import os
from pathlib import Path

import ir
from convc.errors import LoadError


def load(path: str | os.PathLike[str]) -> ir.Graph:
    """The graph in a ``.ir`` file, with the weights that lie beside it (``.safetensors``).

    Raises ``LoadError`` for a missing file or an unknown suffix, ``ir.ParseError`` and
    ``ir.WeightsError`` for broken contents.
    """
    file = Path(path)
    if file.suffix != ".ir":
        raise LoadError(f"{file}: cannot read {file.suffix or 'a file without suffix'}; use .ir")
    if not file.is_file():
        raise LoadError(f"{file}: no such file")
    return ir.load(file)
