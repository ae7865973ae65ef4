"""The errors of this package: every message names what failed, why, and a way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self


class Error(Exception):
    """Anything this package refuses; catch this to catch all of them."""

    def within(self, where: str, told: str = "") -> Self:
        """The same error with the place it happened in front of its message.

        `told` is what the message starts with, if it does, and `where` says already.
        """
        return type(self)(f"{where}: {str(self).removeprefix(f'{told}: ')}")


class ShapeError(Error):
    """Extents or ranks that do not fit together."""


class DTypeError(Error):
    """An element type that an op or a function does not accept."""


class AttributeValueError(Error):
    """An op attribute outside its legal values."""


class GraphError(Error):
    """A graph that is not well formed: names, arity, order, cycles."""


class WeightsError(Error):
    """A weights file or a set of weights that does not match the graph."""


class InputError(Error):
    """Run-time data that do not match the graph's inputs."""


class GradientError(Error):
    """A gradient that does not exist or is not provided."""


class ParseError(Error):
    """A text that is not in the textual form; `line` and `column` count from 1."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(f"line {line}, column {column}: {message}" if line else message)
        self.line = line
        self.column = column

    def within(self, where: str, told: str = "") -> Self:
        """The same error, at the same line and column, with a place in front."""
        error = super().within(where, told)
        error.line, error.column = self.line, self.column
        return error


class FileError(Error, OSError):
    """A file or folder that cannot be read or written."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint such as `; did you mean 'conv'?`, or the empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
