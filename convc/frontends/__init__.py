"""Models in: by the suffix of their file, or by name from the zoo."""

from __future__ import annotations

import os
from pathlib import Path

import ir
from convc import zoo
from convc.errors import LoadError

ZOO = "zoo:"


def load(path: str | os.PathLike[str]) -> ir.Graph:
    """The graph in a ``.ir`` file, with the weights that lie beside it (``.safetensors``).

    "zoo:resnet50" is a network of ``convc.zoo``, its batch size the symbol N.

    Raises ``LoadError`` for a missing file or an unknown suffix, ``InputError`` for an unknown
    network, ``ir.ParseError`` and ``ir.WeightsError`` for broken contents.
    """
    if isinstance(path, str) and path.startswith(ZOO):
        return zoo.build(path.removeprefix(ZOO), "N")
    file = Path(path)
    if file.suffix != ".ir":
        raise LoadError(f"{file}: cannot read {file.suffix or 'a file without suffix'}; use .ir")
    if not file.is_file():
        raise LoadError(f"{file}: no such file")
    return ir.load(file)
