"""Graphs as models of ONNX: `to_onnx` makes one, `save` writes it to a file.

The opset is the oldest from 18 on that has all operators as they are written, as many engines lag
behind the newest. Inputs, outputs and weights keep their names; symbolic sizes become dim_param. A
scale, a shift or a bias becomes an operand of the operator that it follows. An op that ONNX has no
operator for is written by several; one that is a formula of others, whose parts depend on sizes,
must have them bound. Attributes that are float32 in ONNX are avoided where a graph in float64 would
lose precision by them, but not all engines have all operators in float64.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ir
from convc.errors import InputError
from convc.frontends.onnx import require_onnx
from ir.safetensors import write_atomically
from ir.types import Array, described

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

    from convc.frontends.onnx.export.exporter import Exporter
    from convc.model import Model

LARGEST = 2**31 - 2**24  # bytes of constants in one message of protobuf, with room for the nodes
SMALL = 1024  # bytes of a constant that stays in the model


def to_onnx(model: ir.Graph | Model) -> ModelProto:
    """A graph, or that of a compiled model, as an `onnx.ModelProto`.

    One of more than 2 GiB can be built but not serialised: `save` writes it to two files.

    Raises ExportError with every node that ONNX cannot express, `MissingExtraError` where the
    package onnx is not installed.
    """
    return _exported(model).proto(_inside)


def save(model: ir.Graph | Model, path: str | os.PathLike[str]) -> None:
    """Write a graph to an `.onnx` file; constants beyond 2 GiB lie beside it in `.onnx.data`.

    Raises what `to_onnx` does, `ir.FileError` where a file cannot be written.
    """
    exporter, file = _exported(model), Path(path)
    if not file.parent.is_dir():
        raise ir.FileError(f"{file}: the folder does not exist; make it first")
    beside = file.with_name(f"{file.name}.data")
    large = sum(array.nbytes for array in exporter.constants.values()) > LARGEST
    data = _Data(beside.name)
    proto = exporter.proto(data.store if large else _inside)
    try:
        if large:
            write_atomically(beside, data.chunks())
        write_atomically(file, [proto.SerializeToString()])
    except OSError as error:  # it names the file that is renamed in the end
        raise ir.FileError(f"{file}: cannot be written: {error.strerror}") from error


def graph_of(model: Any) -> ir.Graph:
    """A graph, or that of a compiled model; InputError for anything else."""
    graph = model if isinstance(model, ir.Graph) else getattr(model, "graph", None)
    if not isinstance(graph, ir.Graph):
        raise InputError(f"{described(model)} is not a graph or a compiled model")
    return graph


def _exported(model: Any) -> Exporter:
    require_onnx()
    from convc.frontends.onnx.export.exporter import Exporter

    return Exporter(graph_of(model))


def _inside(name: str, array: Array) -> TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(array, name)


class _Data:
    """Constants in a file beside a model."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._arrays: list[Array] = []
        self._size = 0

    def store(self, name: str, array: Array) -> TensorProto:
        """A tensor whose numbers lie in the file, unless they are few."""
        from onnx import TensorProto, helper

        if array.nbytes <= SMALL:
            return _inside(name, array)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        where = {"location": self.location, "offset": self._size, "length": array.nbytes}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
        self._arrays.append(array)
        self._size += array.nbytes
        return tensor

    def chunks(self) -> Iterator[bytes]:
        """The contents of the file."""
        for array in self._arrays:
            yield array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
