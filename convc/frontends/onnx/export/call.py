"""One step of a graph as its translation sees it: operands, types, and the model to write to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

import ir
from convc.frontends.onnx.export.writer import NoFormError, Writer
from ir.dims import Dim, product
from ir.types import Array

FLOAT, INT64, BOOL, DOUBLE = 1, 7, 9, 11
ELEMENT = {ir.DType.FLOAT32: FLOAT, ir.DType.FLOAT64: DOUBLE, ir.DType.INT64: INT64}
AnyOp = TypeVar("AnyOp", bound=ir.Op)


@dataclass(frozen=True)
class Call(Generic[AnyOp]):
    """What a translation is given; it returns the names of the results, whatever they are.

    Operands may be more than the op's own: see `steps`. Their types are in `types`, those of the
    results of the op in `made`.
    """

    writer: Writer
    op: AnyOp
    operands: tuple[str, ...]
    types: tuple[ir.TensorType, ...]
    made: tuple[ir.TensorType, ...]
    name: str

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node with one result, its name."""
        return self.writer.line(kind, inputs, self.name, **attributes)[0]

    def results(self, kind: str, count: int, *inputs: str, **attributes: Any) -> tuple[str, ...]:
        """A node with several results."""
        return self.writer.line(kind, inputs, self.name, count, **attributes)

    @property
    def x(self) -> str:
        """The first operand."""
        return self.operands[0]

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The shape of the first operand."""
        return self.types[0].shape

    @property
    def out(self) -> tuple[Dim, ...]:
        """The shape of the first result."""
        return self.made[0].shape

    @property
    def dtype(self) -> ir.DType:
        """The element type of the first operand."""
        return self.types[0].dtype

    def constant(self, array: Array, name: str = "constant") -> str:
        """A constant beside the node."""
        return self.writer.constant(array, f"{self.name}.{name}")

    def integers(self, values: Sequence[int], name: str) -> str:
        """A list of integers."""
        return self.constant(np.array(values, np.int64), name)

    def number(self, value: float, name: str = "constant") -> str:
        """A number of the element type of the first operand."""
        return self.constant(np.array(value, self.dtype.numpy), name)

    def extents(self, dims: Sequence[Dim]) -> str:
        """A list of extents, known now or at run time."""
        return self.writer.extents(dims, self.name)

    def count(self, dims: Iterable[Dim]) -> str:
        """How many elements extents make, a number of the element type of the first operand."""
        total = product(dims)
        if isinstance(total, int):
            return self.number(total, "count")
        return self("Cast", self("Squeeze", self.extents([total])), to=ELEMENT[self.dtype])

    def filled(self, value: float, dims: Sequence[Dim]) -> str:
        """A tensor of one number, of the element type of the first operand."""
        return self("Expand", self.number(value), self.extents(dims))

    def reshaped(self, value: str, old: Sequence[Dim], new: Sequence[Dim]) -> str:
        """A value of shape `old` under the shape `new`.

        Symbolic extents are copied, or the only one is inferred, as engines see through that best;
        else they are computed. Not both at once, since nothing can be inferred beside a copied 0.
        """
        if tuple(old) == tuple(new):
            return value
        listed = [
            dim if isinstance(dim, int) else 0 if axis < len(old) and old[axis] == dim else -1
            for axis, dim in enumerate(new)
        ]
        copied = sum(not isinstance(dim, int) for dim in new) - listed.count(-1)
        if 0 in new or listed.count(-1) > 1 or (copied and -1 in listed):
            return self("Reshape", value, self.extents(new), allowzero=1)
        return self("Reshape", value, self.integers(listed, "shape"))

    def exact(self, *attributes: float) -> bool:
        """Whether attributes, which are float32 in ONNX, keep the precision of the operands."""
        return self.dtype is ir.DType.FLOAT32 or all(float(np.float32(a)) == a for a in attributes)

    def static(self, what: str, *dims: Dim) -> tuple[int, ...]:
        """Extents that must be known now; NoFormError where one is symbolic."""
        if any(not isinstance(dim, int) for dim in dims):
            raise NoFormError(f"{what} depends on the sizes {', '.join(map(str, dims))}")
        return tuple(dim for dim in dims if isinstance(dim, int))


Result: TypeAlias = "str | tuple[str, ...]"
Emit: TypeAlias = "Callable[[Call[Any]], Result]"


def plainly(kind: str) -> Emit:
    """An operator that takes the operands of the op and has no attributes."""
    return lambda n: n(kind, *n.operands)
