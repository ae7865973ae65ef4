"""Which opset a model is of: the oldest that says the same, as many engines lag behind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from convc.errors import ExportError
from convc.frontends.onnx.export.writer import Line

OLDEST, NEWEST = 18, 26
"""From 18 on, operators with the operands and attributes that are written here mean the same."""
Form: TypeAlias = "tuple[str, int, frozenset[str]]"


def opset_of(lines: Iterable[Line]) -> int:
    """The oldest opset that has the operators of a model in the form in which they are written.

    ExportError where the package onnx is too old to know it.
    """
    forms = {
        (line.kind, len(line.inputs), frozenset(line.attributes))
        for line in lines
        if "domain" not in line.attributes
    }
    return max((_since(form) for form in forms), default=OLDEST)


def _since(form: Form) -> int:
    for version in range(OLDEST, NEWEST + 1):
        if _is_in(form, version):
            return version
    from onnx import __version__

    hint = "install a newer one: pip install -U onnx"
    raise ExportError(f"onnx {__version__} does not know {form[0]} as it is written; {hint}")


def _is_in(form: Form, version: int) -> bool:
    from onnx import defs

    kind, count, attributes = form
    try:
        schema = defs.get_schema(kind, version)
    except defs.SchemaError:
        return False
    taken = count <= schema.max_input and attributes <= schema.attributes.keys()
    return taken and not schema.deprecated
