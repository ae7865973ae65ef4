"""Packages that are not installed with convc."""

from __future__ import annotations

import importlib
from types import ModuleType

from convc.errors import MissingExtraError

INSTALL = {
    "onnx": 'pip install "convc[bench,onnx]"',
    "onnxruntime": 'pip install "convc[bench,onnx]"',
    "openvino": 'pip install "convc[bench,onnx]"',
    "torch": "pip install torch (the CPU build)",
}


def needed(package: str) -> ModuleType:
    """Import a package of an extra; ``MissingExtraError`` says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(f"{package} is not installed: {INSTALL[package]}") from error
