"""The safetensors file format: an 8-byte little-endian header length, a JSON header, raw data.

Reading is strict: the tensors must fill the data exactly, in order, without gaps or overlaps.
Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ir.errors import WeightsError
from ir.types import Array, DType

FilePath: TypeAlias = str | os.PathLike[str]
MAX_HEADER = 100_000_000
METADATA = "__metadata__"  # what the header says of the file
CODES = {"F32": DType.FLOAT32, "F64": DType.FLOAT64, "I64": DType.INT64}
NAMES = {dtype: code for code, dtype in CODES.items()}


def write_tensors(path: FilePath, tensors: Mapping[str, Array]) -> None:
    """Write f32, f64 and i64 arrays to `path`, all or nothing; equal tensors give equal files.

    WeightsError for the one name that the format keeps for itself.
    """
    if METADATA in tensors:
        raise WeightsError(f"a safetensors file has no tensor '{METADATA}'; give it another name")
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {}
    offset = 0
    for name in order:
        array = tensors[name]
        end = offset + array.nbytes
        code = NAMES[DType.of(array.dtype)]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = (_little_endian(tensors[name]).tobytes() for name in order)
    write_atomically(path, [len(text).to_bytes(8, "little"), text, *data])


def read_tensors(path: FilePath) -> dict[str, Array]:
    """The tensors in `path`, read-only, in the order of their data.

    WeightsError when the file is not a well-formed safetensors file or holds other element types.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read weights '{path}': {error.strerror}") from error
    try:
        return decode(content)
    except WeightsError as error:
        raise error.within(f"weights '{path}'") from error


def decode(content: bytes) -> dict[str, Array]:
    """The tensors in the bytes of a safetensors file; WeightsError when it is malformed."""
    header, data = _split(content)
    header.pop(METADATA, None)
    spans = {name: _span(name, entry) for name, entry in header.items()}
    tensors: dict[str, Array] = {}
    expected = 0
    for name in sorted(spans, key=lambda name: spans[name][2:]):
        dtype, shape, begin, end = spans[name]
        if begin != expected:
            kind = "overlaps the one before" if begin < expected else "leaves a gap"
            raise WeightsError(f"tensor '{name}' at byte {begin} {kind}, which ends at {expected}")
        if end > len(data):
            raise WeightsError(f"tensor '{name}' ends at {end} of {len(data)} bytes: truncated")
        little = dtype.numpy.newbyteorder("<")
        flat = np.frombuffer(data[begin:end], little).astype(dtype.numpy, copy=False)
        tensors[name] = flat.reshape(shape)
        expected = end
    if expected != len(data):
        raise WeightsError(f"{len(data) - expected} bytes follow the last tensor")
    return tensors


def write_atomically(path: FilePath, chunks: Iterable[bytes]) -> None:
    """Write a file under another name and rename it, so `path` is never half written."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.writelines(chunks)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The decoded header and the data of a file."""
    if len(content) < 8:
        raise WeightsError(f"{len(content)} bytes are too few for a header length: truncated")
    length = int.from_bytes(content[:8], "little")
    if length > MAX_HEADER:
        raise WeightsError(f"a header of {length} bytes is larger than {MAX_HEADER}")
    if len(content) < 8 + length:
        raise WeightsError(f"the header of {length} bytes goes beyond the file: truncated")
    try:
        header = json.loads(content[8 : 8 + length], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"the header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise WeightsError("the header is not a JSON object")
    return header, memoryview(content)[8 + length :]


def _span(name: str, entry: Any) -> tuple[DType, tuple[int, ...], int, int]:
    """Element type, shape, first byte, and the byte after the last, of one header entry."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise WeightsError(f"tensor '{name}' needs exactly dtype, shape and data_offsets")
    shape, offsets = _naturals(name, entry["shape"]), _naturals(name, entry["data_offsets"])
    dtype = CODES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        hint = f"convert it to one of {', '.join(CODES)}"
        raise WeightsError(f"tensor '{name}' has element type {entry['dtype']!r}; {hint}")
    size = math.prod(shape) * dtype.itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise WeightsError(f"tensor '{name}' of {size} bytes has data_offsets {list(offsets)}")
    return dtype, shape, offsets[0], offsets[1]


def _naturals(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int and n >= 0 for n in value):
        raise WeightsError(f"tensor '{name}': {value!r} must be a list of non-negative integers")
    return tuple(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise WeightsError("the header names a tensor or a field twice")
    return found


def _little_endian(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
