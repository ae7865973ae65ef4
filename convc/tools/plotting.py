"""What the pictures share: the extra they need, and files of the formats that it writes."""

from __future__ import annotations

import importlib
from pathlib import Path

from convc.errors import InputError, MissingExtraError


def check(path: Path) -> None:
    """Before there is anything to draw: ``MissingExtraError`` unless matplotlib is there,
    ``InputError`` for the name of a file that it cannot write."""
    try:
        canvas = importlib.import_module("matplotlib.backend_bases").FigureCanvasBase
    except ImportError as error:
        raise MissingExtraError('matplotlib is not installed: pip install "convc[plot]"') from error
    endings = [f".{ending}" for ending in canvas.get_supported_filetypes()]
    if path.suffix.lower() not in endings:
        raise InputError(f"--plot {path} must end in one of {', '.join(endings)}")
