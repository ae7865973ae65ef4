"""What all translations share: what they are given, and how they refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy.typing as npt

from convc.errors import Error

Array: TypeAlias = npt.NDArray[Any]
Inputs: TypeAlias = Mapping[str, Array]


class UntranslatableError(Error):
    """An engine has nothing like a node of the graph."""
