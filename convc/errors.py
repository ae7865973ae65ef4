"""What goes wrong in compiling and running; wrong graphs raise ``ir.Error`` themselves."""

from __future__ import annotations

import ir


class Error(ir.Error):
    """Base of every error of this package."""


class TargetError(Error):
    """No such target, or its code does not run on this machine."""


class AlgorithmError(Error):
    """No algorithm for a node, or a forced one that does not apply."""


class InputError(Error):
    """Arguments, arrays or settings that do not fit."""


class CapacityError(Error):
    """Sizes beyond what this machine can hold."""


class LoadError(Error):
    """A file is not a model that can be read."""


class ExportError(Error):
    """A graph has nodes that a format cannot express."""


class MissingExtraError(Error):
    """An optional package is not installed."""
