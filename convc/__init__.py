"""Compile convolutional networks to native code: forward and backward, from Python.

    graph = convc.load("model.ir")
    model = convc.compile(graph)
    y = model(x)
"""

import logging

from convc.errors import (
    AlgorithmError,
    CapacityError,
    Error,
    ExportError,
    InputError,
    LoadError,
    MissingExtraError,
    TargetError,
)
from convc.frontends import load, save
from convc.frontends.onnx.export import to_onnx
from convc.model import Model, compile

__version__ = "0.1.0"
__all__ = [
    "AlgorithmError",
    "CapacityError",
    "Error",
    "ExportError",
    "InputError",
    "LoadError",
    "MissingExtraError",
    "Model",
    "TargetError",
    "compile",
    "load",
    "save",
    "to_onnx",
]

logging.getLogger("convc").addHandler(logging.NullHandler())
