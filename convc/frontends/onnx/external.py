"""Weights in files of their own: only regular files inside the folder of the model.

Links within the folder are followed as long as they end in it; absolute locations and ``..`` are
refused. No byte of a file is read into two tensors, unless they are the same tensor, so the
memory needed is bounded by the sizes of the files.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from convc.errors import LoadError

if TYPE_CHECKING:
    from onnx import TensorProto


class External:
    """The files beside one model; none for a model that does not come from a file."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = None if folder is None else folder.resolve()
        self._read: dict[tuple[str, int, int], bytes] = {}
        self._left: dict[str, int] = {}

    def read(self, tensor: TensorProto, size: int) -> bytes:
        """The `size` bytes of a tensor; LoadError where it does not lie where it may."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        offset, length = _number(entries, "offset", 0), _number(entries, "length", size)
        if length != size:
            raise LoadError(f"external data '{location}': {length} bytes for a tensor of {size}")
        key = (location, offset, length)
        if key not in self._read:
            self._read[key] = self._contents(location, offset, length)
        return self._read[key]

    def _contents(self, location: str, offset: int, length: int) -> bytes:
        where = f"external data '{location:.200}'"
        path = self._path(location, where)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise LoadError(f"{where} is not a regular file")
                if offset + length > status.st_size:
                    wanted = f"bytes {offset} to {offset + length} of {status.st_size}"
                    raise LoadError(f"{where}: {wanted}; the file is too short")
                left = self._left.setdefault(str(path), status.st_size) - length
                if left < 0:
                    raise LoadError(f"{where}: tensors overlap in it")
                self._left[str(path)] = left
                file.seek(offset)
                data = file.read(length)
        except (OSError, ValueError) as error:
            raise LoadError(f"{where} cannot be read: {error}") from error
        if len(data) != length:
            raise LoadError(f"{where}: {len(data)} of {length} bytes could be read")
        return data

    def _path(self, location: str, where: str) -> Path:
        """The file of a location, all links resolved."""
        if self.folder is None:
            raise LoadError(f"{where}: load the model from its file, so that it has a folder")
        parts = (*PurePosixPath(location).parts, *PureWindowsPath(location).parts)
        absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
        if not parts or absolute or ".." in parts or "\0" in location:
            raise LoadError(f"{where}: only files inside the folder of the model may be named")
        try:
            path = (self.folder / location).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise LoadError(f"{where} cannot be read: {error}") from error
        if not path.is_relative_to(self.folder):
            raise LoadError(f"{where} leads out of the folder of the model")
        return path


def _number(entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise LoadError(f"external data: {key} '{text:.30}' is not a number of bytes")
    return int(text)
