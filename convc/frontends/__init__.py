"""Models in and out: by the suffix of their file, or by name from the zoo."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ir
from convc import zoo
from convc.errors import InputError, LoadError
from convc.frontends import onnx
from convc.frontends.onnx import export
from ir.types import Array, described

if TYPE_CHECKING:
    from onnx import ModelProto

    from convc.model import Model

ZOO = "zoo:"


def load(
    model: str | os.PathLike[str] | ModelProto,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    constants: Mapping[str, Array] | None = None,
) -> ir.Graph:
    """The graph in a ``.ir`` file, with the weights that lie beside it (``.safetensors``), or in a
    model of ONNX: an ``.onnx`` file or an ``onnx.ModelProto``.

    "zoo:resnet50" is a network of ``convc.zoo``, its batch size the symbol N. For models of ONNX,
    ``shapes`` gives inputs their shapes, as in ``{"image": ("N", 3, 224, 224)}``, and
    ``constants`` inputs the values that shapes depend on; see ``convc.frontends.onnx``.

    Raises ``LoadError`` for a missing file, an unknown suffix and models of ONNX that cannot be
    read, ``InputError`` for an unknown network or input, ``ir.FileError`` for a ``.ir`` file that
    cannot be read, ``ir.ParseError`` and ``ir.WeightsError`` for broken contents,
    ``MissingExtraError`` where the package onnx is needed and not installed.
    """
    if onnx.is_proto(model) or _suffix(model) == ".onnx":
        return onnx.load(model, shapes, constants)
    if shapes or constants:
        raise InputError("shapes= and constants= are for models of ONNX; use graph.bind for others")
    if isinstance(model, str) and model.startswith(ZOO):
        return zoo.build(model.removeprefix(ZOO), "N")
    if not isinstance(model, str | os.PathLike):
        raise InputError(f"{described(model)} is not a model; give the path of a file")
    file = Path(model)
    if file.is_dir():
        raise LoadError(f"{file}: a folder, no file")
    if file.suffix != ".ir":
        given = file.suffix or "a file without suffix"
        hint = f"; did you mean '{ZOO}{model}'?" if str(model) in zoo.NAMES else ""
        raise LoadError(f"{file}: cannot read {given}; use .ir or .onnx{hint}")
    if not file.is_file():
        raise LoadError(f"{file}: no such file")
    return ir.load(file)


def save(model: ir.Graph | Model, path: str | os.PathLike[str]) -> None:
    """Write a graph, or that of a compiled model, to a ``.ir`` file and its weights beside it, or
    to a model of ONNX, an ``.onnx`` file; see ``convc.to_onnx``.

    Raises ``InputError`` for another suffix, ``ExportError`` with every node that ONNX cannot
    express, ``ir.FileError`` where a file cannot be written.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{described(path)} is not the path of a file to write")
    suffix = _suffix(path)
    if suffix not in (".ir", ".onnx"):
        raise InputError(
            f"{path}: cannot write {suffix or 'a file without suffix'}; use .ir or .onnx"
        )
    graph = export.graph_of(model)
    if suffix == ".onnx":
        export.save(graph, path)
    else:
        ir.save(graph, path)


def _suffix(model: object) -> str:
    return Path(model).suffix if isinstance(model, str | os.PathLike) else ""
