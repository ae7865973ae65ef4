"""Models in ONNX's format in: `load` makes a graph of one.

Opsets from 7 on. What is known at import is computed then: shape arithmetic disappears, and padding
by name (auto_pad) becomes explicit. Sizes without a value are symbolic, called as in the model
(dim_param) or after the input and the axis, as in x_0. Inputs, outputs, weights and the results of
nodes keep their names. For element types see `tensors`, for weights in files of their own
`external`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import ir
from convc.errors import InputError, LoadError, MissingExtraError
from convc.frontends.onnx.external import External
from ir.types import Array, described

if TYPE_CHECKING:
    from onnx import ModelProto

MAX_FILE = 2**31 - 1  # of one message in protobuf's format
INSTALL = "pip install 'convc[onnx]'"


def load(
    model: str | os.PathLike[str] | bytes | ModelProto,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    constants: Mapping[str, Array] | None = None,
) -> ir.Graph:
    """The graph of a model: a file, its contents, or an `onnx.ModelProto`.

    `shapes` fixes the shapes of inputs, extents as numbers or names; `constants` gives inputs their
    values already now, where a shape depends on them.

    Raises LoadError with every node that cannot be imported, `InputError` for names that are no
    inputs, `MissingExtraError` where the package onnx is not installed.
    """
    require_onnx()
    source, proto, external = _read(model)
    from convc.frontends.onnx.importer import MALFORMED, Importer

    arrays = {name: np.asarray(array) for name, array in (constants or {}).items()}
    try:
        return Importer(proto, external, shapes or {}, arrays).graph()
    except (InputError, LoadError) as error:
        raise error.within(source) from error
    except MALFORMED as error:
        reason = " ".join(str(error).split())
        raise LoadError(f"{source}: malformed model: {reason}") from error


def require_onnx() -> Any:
    """The package onnx; MissingExtraError says how to install it."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError(f"onnx is not installed: {INSTALL}") from error
    return onnx


def is_proto(model: object) -> bool:
    """Whether a value is an onnx.ModelProto, without importing onnx."""
    return type(model).__name__ == "ModelProto" and hasattr(model, "SerializeToString")


def _read(model: Any) -> tuple[str, ModelProto, External]:
    """What to call a model in messages, the model, and the files beside it."""
    if is_proto(model):
        return "model", model, External(None)
    if isinstance(model, bytes):
        return "model", parse(model, "model"), External(None)
    if not isinstance(model, str | os.PathLike):
        hint = "give a path, bytes or an onnx.ModelProto"
        raise InputError(f"{described(model)} is not a model; {hint}")
    path = Path(model)
    if not path.is_file():
        raise LoadError(f"{path}: {'a folder, no file' if path.is_dir() else 'no such file'}")
    size = path.stat().st_size
    if size > MAX_FILE:
        hint = "store its weights in a file beside it (save_as_external_data)"
        raise LoadError(f"{path}: {size} bytes are more than a model in one file may have; {hint}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from error
    return str(path), parse(content, str(path)), External(path.parent)


def parse(data: bytes, source: str) -> ModelProto:
    """The model in a protobuf message; LoadError where it is none."""
    onnx = require_onnx()
    try:
        model: ModelProto = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf has types of its own for what it refuses
        raise LoadError(f"{source}: not an ONNX model: {error}") from error
    if not model.HasField("graph"):
        raise LoadError(f"{source}: not an ONNX model: it has no graph")
    return model
