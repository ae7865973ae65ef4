"""Element types and tensor types."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ir.dims import Dim, bind, parse_dim, product
from ir.errors import DTypeError, ShapeError

Array: TypeAlias = NDArray[Any]


class DType(Enum):
    """An element type; the value is its name in the textual form."""

    FLOAT32 = "f32"
    FLOAT64 = "f64"
    INT64 = "i64"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy element type, in the machine's byte order."""
        return _NUMPY[self]

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        """True for the types that carry gradients."""
        return self is not DType.INT64

    @staticmethod
    def of(value: DType | DTypeLike) -> DType:
        """The type named by `f32`-style text, a numpy dtype or its name; DTypeError if none."""
        if isinstance(value, np.dtype) and value in _NAMED:
            return _NAMED[value]
        for dtype in DType:
            if value is dtype or (isinstance(value, str) and value == dtype.value):
                return dtype
        try:
            wanted = np.dtype(value).newbyteorder("=")  # type: ignore[arg-type]
        except TypeError:
            wanted = None
        for dtype in DType:
            if wanted is not None and dtype.numpy == wanted:
                return dtype
        names = ", ".join(dtype.value for dtype in DType)
        raise DTypeError(f"element type {value!r} is not supported; convert to one of {names}")

    def __str__(self) -> str:
        return self.value


_NUMPY: dict[DType, np.dtype[Any]] = {
    DType.FLOAT32: np.dtype(np.float32),
    DType.FLOAT64: np.dtype(np.float64),
    DType.INT64: np.dtype(np.int64),
}
_NAMED = {dtype: name for name, dtype in _NUMPY.items()}


@dataclass(frozen=True)
class TensorType:
    """An element type and a shape whose extents may be symbolic; `str` gives `f32[N, 3, 8, 8]`."""

    dtype: DType
    shape: tuple[Dim, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        for extent in self.shape:
            if isinstance(extent, int) and extent < 0:
                raise ShapeError(f"{self} has the negative extent {extent}")

    @staticmethod
    def parse(text: str) -> TensorType:
        """The type written in `text`, e.g. `f32[N, 1, 28, 28]` or `f64[]`."""
        match = re.fullmatch(r"\s*(\w+)\s*\[([^\[\]]*)\]\s*", text)
        if match is None:
            raise ShapeError(f"cannot read type '{text}'; write e.g. f32[N, 1, 28, 28]")
        dims = match[2].split(",") if match[2].strip() else []
        return TensorType(DType.of(match[1]), tuple(parse_dim(dim) for dim in dims))

    @staticmethod
    def of(array: Array) -> TensorType:
        """The type of a numpy array; DTypeError for anything else."""
        if not isinstance(array, np.ndarray | np.generic):
            raise DTypeError(f"give a numpy array, not {described(array)}; use np.asarray")
        return TensorType(DType.of(array.dtype), array.shape)

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @cached_property
    def is_static(self) -> bool:
        """True when no extent is symbolic."""
        return all(isinstance(extent, int) for extent in self.shape)

    @property
    def size(self) -> Dim:
        """The number of elements."""
        return product(self.shape)

    @property
    def nbytes(self) -> Dim:
        """The number of bytes of a contiguous array of this type."""
        return self.size * self.dtype.itemsize

    @cached_property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as ints; ShapeError when an extent is symbolic."""
        return self.static_from(0)

    def static_from(self, start: int) -> tuple[int, ...]:
        """The extents of the axes from `start` on as ints; ShapeError when one is symbolic."""
        sizes = tuple(extent for extent in self.shape[start:] if isinstance(extent, int))
        if len(sizes) != len(self.shape[start:]):
            raise ShapeError(f"{self} is not static; bind its symbols first")
        return sizes

    @cached_property
    def static_nbytes(self) -> int:
        """`nbytes` as an int; ShapeError when an extent is symbolic."""
        return math.prod(self.static_shape) * self.dtype.itemsize

    def bind(self, env: Mapping[str, Dim]) -> TensorType:
        """This type with the symbols in `env` replaced."""
        return TensorType(self.dtype, tuple(bind(extent, env) for extent in self.shape))

    def with_shape(self, *shape: Dim) -> TensorType:
        """The same element type with another shape."""
        return TensorType(self.dtype, shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    __repr__ = __str__


def described(value: object) -> str:
    """What a value is, for messages: the type and shape of an array, never its numbers."""
    if isinstance(value, np.ndarray):
        return f"a numpy array {value.dtype}{list(value.shape)}"
    plain = value is None or isinstance(value, bool | int | float | str)
    return f"{value!r:.60}" if plain else f"a value of type {value.__class__.__name__}"
