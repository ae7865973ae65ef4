"""Element types and the numbers of tensors that are stored in a model.

The float types float32 and float64 stay what they are; float16 and bfloat16 become float32.
Integers of all widths become i64 and booleans floats of 0 and 1 where they are computed with;
what is known at import keeps its type until then. Strings, complex numbers and types of less than
a byte are refused.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from convc.errors import LoadError
from convc.frontends.onnx.external import External
from ir.types import Array, DType

if TYPE_CHECKING:
    from onnx import TensorProto

FLOAT, INT64, BOOL, FLOAT16, DOUBLE, BFLOAT16 = 1, 7, 9, 10, 11, 16
NUMPY: dict[int, np.dtype[Any]] = {
    number: np.dtype(name)
    for number, name in {
        FLOAT: "f4", 2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", INT64: "i8", BOOL: "?",
        FLOAT16: "f2", DOUBLE: "f8", 12: "u4", 13: "u8", BFLOAT16: "f4",
    }.items()
}  # fmt: skip
"""The array that stands for a tensor of each element type."""
NARROW = (FLOAT16, BFLOAT16)
FIELDS = {FLOAT: "float_data", DOUBLE: "double_data", INT64: "int64_data",
          12: "uint64_data", 13: "uint64_data"}  # fmt: skip
MAX_RANK = 32


def name_of(element: int) -> str:
    """The name of an element type in ONNX."""
    import onnx

    known = onnx.TensorProto.DataType.items()
    return next((name for name, number in known if number == element), f"type {element}")


def numpy_type(element: int) -> np.dtype[Any]:
    """The numpy type for an element type; LoadError where convc has none."""
    if element not in NUMPY:
        hint = "use float32, float64, integers or booleans"
        raise LoadError(f"tensors of {name_of(element)} are not supported; {hint}")
    return NUMPY[element]


def value_type(element: int) -> DType:
    """The type that computed values of an element type have."""
    kind = numpy_type(element)
    if kind.kind in "iu":
        return DType.INT64
    return DType.FLOAT64 if element == DOUBLE else DType.FLOAT32


class Stored:
    """The numbers of tensors: each is read once, however often a loop or a function comes by."""

    def __init__(self, external: External) -> None:
        self._external = external
        self._read: dict[int, tuple[TensorProto, Array]] = {}  # the first keeps its id its own

    def __call__(self, tensor: TensorProto) -> Array:
        """What `array_of` gives."""
        if id(tensor) not in self._read:
            self._read[id(tensor)] = tensor, array_of(tensor, self._external)
        return self._read[id(tensor)][1]


def array_of(tensor: TensorProto, external: External) -> Array:
    """The numbers of a stored tensor, read-only; LoadError where they are not what it declares."""
    kind = numpy_type(tensor.data_type)
    shape = tuple(tensor.dims)
    if len(shape) > MAX_RANK or any(extent < 0 for extent in shape):
        raise LoadError(f"a tensor cannot have the dimensions {shape[:MAX_RANK]}")
    stored = np.dtype("u2") if tensor.data_type == BFLOAT16 else kind
    count = math.prod(shape)
    if tensor.HasField("segment"):
        raise LoadError("tensors in segments are not supported")
    if tensor.data_location == tensor.EXTERNAL:
        raw = external.read(tensor, count * stored.itemsize)
        flat = np.frombuffer(raw, stored.newbyteorder("<"))
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != count * stored.itemsize:
            wanted = f"{count} elements of {name_of(tensor.data_type)}"
            raise LoadError(f"{len(tensor.raw_data)} bytes are stored for {wanted}")
        flat = np.frombuffer(tensor.raw_data, stored.newbyteorder("<"))
    else:
        flat = _listed(tensor, stored)
    if flat.size != count:
        raise LoadError(f"{flat.size} numbers are stored for {count} elements of shape {shape}")
    if tensor.data_type == BFLOAT16:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    flat.flags.writeable = False
    return flat.reshape(shape)


def _listed(tensor: TensorProto, stored: np.dtype[Any]) -> Array:
    """The numbers of a tensor from the field that lists them, one by one."""
    listed = getattr(tensor, FIELDS.get(tensor.data_type, "int32_data"))
    if tensor.data_type in FIELDS:
        return np.array(listed, stored)
    numbers = np.array(listed, np.int64)
    if tensor.data_type in NARROW:  # their bits
        return numbers.astype(np.uint16).view(stored)
    return numbers.astype(stored)
