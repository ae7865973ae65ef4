"""One node of a model as its operator sees it: operands, attributes, and the builder to emit to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

import ir
from convc.frontends.onnx.attributes import Attributes
from convc.frontends.onnx.errors import GIVE_SHAPES, ConstantNeededError, NodeError
from convc.frontends.onnx.symbolic import is_symbolic
from convc.frontends.onnx.tensors import Stored
from ir.dims import Dim
from ir.types import Array

if TYPE_CHECKING:
    from onnx import NodeProto


OF_SIZES = frozenset({"Add", "Clip", "Concat", "ConstantOfShape", "Equal", "Greater", "Less",
    "GreaterOrEqual", "LessOrEqual", "Max", "Min", "Mul", "Range", "Sub", "Where"})  # fmt: skip
"""Operators that, when the model runs, make of sizes what they make of the same numbers as floats:
it is not known whether sizes that a model computes with are integers or floats."""


@dataclass(frozen=True)
class Known:
    """A value that is known at import, under its name; `stored` in the model as a weight or not."""

    array: Array
    name: str = ""
    stored: bool = False


@dataclass(frozen=True)
class Live:
    """A value that is computed when the model runs; a `truth` is a float, 1 or 0.

    `integer` is the type that the model gives to integers of fewer than 64 bits.
    """

    value: ir.Value
    truth: bool = False
    inputs: frozenset[str] = frozenset()  # of the model, that it depends on
    integer: np.dtype[Any] | None = None

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The extents."""
        return self.value.shape


class House(Protocol):
    """What all nodes of a model share."""

    stored: Stored

    def weight(self, operand: Known) -> ir.Value:
        """A known value as a weight of the graph."""

    def live(self, name: str) -> ir.Value:
        """What the model calls so, as a value of the graph."""

    def interpreted(self, value: ir.Value) -> Array:
        """The numbers of a value that depends on no input."""

    def budget(self, size: int) -> None:
        """NodeError where what is computed at import takes too many bytes."""

    def note(self, text: str) -> None:
        """Tell the user, once, what is done otherwise than the model says."""


Operand: TypeAlias = Known | Live
Result: TypeAlias = "ir.Value | Array | Operand"
Emit: TypeAlias = "Callable[[Call], Result | Sequence[Result]]"


def listed(made: Result | Sequence[Result]) -> list[Result]:
    """What an operator made, a single result too, as a list."""
    return list(made) if isinstance(made, Sequence) else [made]


@dataclass
class Call:
    """What an operator is given. Operands count from 0; those left out are None."""

    b: ir.Builder
    node: NodeProto
    operands: tuple[Operand | None, ...]
    attributes: Attributes
    opset: int
    house: House

    @property
    def count(self) -> int:
        """How many operands there are, left out or not."""
        return len(self.operands)

    def has(self, number: int) -> bool:
        """Whether an operand is given."""
        return number < len(self.operands) and self.operands[number] is not None

    def operand(self, number: int) -> Operand:
        """An operand; NodeError where it is left out."""
        operand = self.operands[number] if number < len(self.operands) else None
        if operand is None:
            raise NodeError(f"operand {number} is missing")
        return operand

    def wants(self, number: int) -> bool:
        """Whether a result is used."""
        return number < len(self.node.output) and bool(self.node.output[number])

    def x(self, number: int = 0) -> ir.Value:
        """An operand as a value of the graph; what is known becomes a weight.

        Sizes that are computed with beside floats are floats too.
        """
        operand = self.operand(number)
        value = self.live(operand)
        if isinstance(operand, Known) and is_symbolic(operand.array):
            for other in self.operands:
                if isinstance(other, Live) and other.value.dtype.is_float and not other.truth:
                    return self.b.cast(value, other.value.dtype)
            if self.node.op_type not in OF_SIZES:
                raise NodeError(f"a symbolic size is computed with; {GIVE_SHAPES}")
        return value

    def live(self, operand: Operand) -> ir.Value:
        """A value of the graph."""
        return operand.value if isinstance(operand, Live) else self.house.weight(operand)

    def truth(self, number: int) -> bool:
        """Whether an operand is boolean."""
        operand = self.operand(number)
        if isinstance(operand, Known):
            return operand.array.dtype == bool
        return operand.truth

    def shape(self, number: int = 0) -> tuple[Dim, ...]:
        """The extents of an operand."""
        operand = self.operand(number)
        return operand.array.shape if isinstance(operand, Known) else operand.shape

    def sizes(self, number: int = 0) -> tuple[int, ...]:
        """The extents of an operand, all of them known; NodeError where one is symbolic."""
        return fixed(self.shape(number))

    def known(self, number: int) -> bool:
        """Whether an operand is known at import."""
        return self.has(number) and isinstance(self.operands[number], Known)

    def constant(self, number: int, what: str) -> Array:
        """The numbers of an operand that must be known, of extents where some are symbolic."""
        operand = self.operand(number)
        if isinstance(operand, Known):
            return operand.array
        if not operand.inputs:
            return self.house.interpreted(operand.value)
        names = ", ".join(sorted(operand.inputs))
        message = f"{what} must be known at import; it depends on {names}"
        raise ConstantNeededError(message, operand.inputs)

    def integers(self, number: int, what: str) -> tuple[int, ...]:
        """The integers of an operand that must be known, a list or a single one."""
        array = self.constant(number, what)
        if is_symbolic(array):
            raise NodeError(f"{what} depends on symbolic sizes; {GIVE_SHAPES}")
        if array.ndim > 1 or array.dtype.kind not in "iu":
            raise NodeError(f"{what} must be a list of integers, not {array.dtype}{array.shape}")
        return tuple(int(value) for value in array.reshape(-1))

    def extents(self, number: int, what: str) -> tuple[Dim, ...]:
        """The extents that an operand lists, some of them symbolic."""
        array = self.constant(number, what)
        return tuple(array.reshape(-1)) if is_symbolic(array) else self.integers(number, what)

    def number(self, number: int, what: str) -> float:
        """The only number of an operand that must be known."""
        array = self.constant(number, what)
        if array.size != 1 or is_symbolic(array):
            raise NodeError(f"{what} must be one number, not {array.dtype}{array.shape}")
        return float(array.reshape(-1)[0])

    def scalar(self, number: int, rank: int) -> float | None:
        """The number that an operand is, if it is known, to broadcast to a value of a rank.

        A weight that is a list of one number stays a weight.
        """
        operand = self.operand(number)
        if not isinstance(operand, Known) or operand.array.dtype.kind != "f":
            return None
        single = operand.array.size == 1 and operand.array.ndim <= rank
        if not single or (operand.stored and operand.array.ndim):
            return None
        return float(operand.array.reshape(-1)[0])

    def axes(self, attribute: str = "axes", operand: int = 1) -> tuple[int, ...] | None:
        """Axes given by an attribute or, in later opsets, by an operand; None without both."""
        if self.has(operand):
            return self.integers(operand, attribute)
        return self.attributes.integers(attribute)

    def array(self, name: str) -> Array | None:
        """The numbers of a tensor that is an attribute."""
        tensor = self.attributes.tensor(name)
        return None if tensor is None else self.house.stored(tensor)

    def budget(self, size: int) -> None:
        """NodeError where what is computed at import takes too many bytes."""
        self.house.budget(size)


def computable(array: Array) -> Array:
    """An array in an element type that is computed with."""
    if array.dtype.kind == "f":
        return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
    return array.astype(np.float32 if array.dtype == bool else np.int64, copy=False)


def fixed(shape: Sequence[Dim]) -> tuple[int, ...]:
    """Extents that are all known; NodeError where one is symbolic."""
    sizes = tuple(extent for extent in shape if isinstance(extent, int))
    if len(sizes) != len(shape):
        listed = ", ".join(map(str, shape))
        raise NodeError(f"[{listed}] has symbolic sizes; {GIVE_SHAPES}")
    return sizes


def axis_of(axis: int, rank: int, what: str = "axis") -> int:
    """An axis counted from the start; NodeError where there is none."""
    if not -rank <= axis < rank:
        raise NodeError(f"{what} {axis} is not an axis of {rank}")
    return axis + rank if axis < 0 else axis


def described(operand: Operand | None) -> str:
    """An operand in messages: its type, and sizes that it lists."""
    if operand is None:
        return "-"
    if isinstance(operand, Live):
        return str(operand.value.type)
    shape = ", ".join(map(str, operand.array.shape))
    if is_symbolic(operand.array):
        return f"sizes[{shape}] = ({', '.join(map(str, operand.array.flat)):.80})"
    return f"{operand.array.dtype}[{shape}]"
