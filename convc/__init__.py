"""Compile convolutional networks to native code: forward and backward, from Python.

    graph = convc.load("model.ir")
    model = convc.compile(graph)
    y = model(x)
"""

import importlib
import logging
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_IMPORTING = threading.RLock()  # threads that import a package and a part of it would deadlock
_MODULES = {
    "load": "convc.frontends",
    "save": "convc.frontends",
    "to_onnx": "convc.frontends.onnx.export",
    "Model": "convc.model",
    "compile": "convc.model",
}


def __getattr__(name: str) -> Any:
    """What is named above, and the modules of this package, imported when first asked for.

    The imports take a moment, in which an interrupt finds the command line prepared for it.
    """
    if name in __all__:
        with _IMPORTING:
            module = importlib.import_module(_MODULES.get(name, "convc.errors"))
        globals()[name] = getattr(module, name)
        return globals()[name]
    unknown = AttributeError(f"module 'convc' has no attribute {name!r}")
    if name.startswith("_") or "." in name:
        raise unknown
    try:
        return importlib.import_module(f"convc.{name}")
    except ModuleNotFoundError as error:
        raise unknown if error.name == f"convc.{name}" else error from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
