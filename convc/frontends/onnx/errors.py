"""What goes wrong in a model: errors of one node, which the importer collects and names."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable
from typing import Self

from convc.errors import Error, LoadError

GIVE_SHAPES = "fix the sizes with shapes="  # the importer says which


LOG = logging.getLogger("convc")


def tell(text: str) -> None:
    """Tell the user: by the log where it is read, else by a warning at what called convc."""
    handlers = [*LOG.handlers, *logging.getLogger().handlers]
    if not all(isinstance(handler, logging.NullHandler) for handler in handlers):
        LOG.warning("%s", text)
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] == "convc":
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


class NodeError(Error):
    """Why one node cannot be imported."""


class UndecidedError(NodeError):
    """Shape arithmetic whose result depends on the values of symbolic sizes."""


class ConstantNeededError(LoadError):
    """What must be known at import is computed; `inputs` of the model would determine it."""

    def __init__(self, message: str, inputs: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.inputs = frozenset(inputs)

    def within(self, where: str, told: str = "") -> Self:
        """The same error with the place it happened in front of its message."""
        error = super().within(where, told)
        error.inputs = self.inputs
        return error
