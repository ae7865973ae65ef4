"""Numbers in the lanes of a vector, with the operators of numbers: to write formulas in LLVM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir as llvm

from convc.backend.instructions import I32, I64, TYPES, Emitter, Value, fma, intrinsic


@dataclass(frozen=True)
class Format:
    """A floating-point type: its bits, and how many of them hold the fraction."""

    bits: int
    fraction: int

    @property
    def bias(self) -> int:
        return int(2 ** (self.bits - self.fraction - 2) - 1)

    @property
    def whole(self) -> float:
        """From here up to its double all numbers are whole, and their bits count them."""
        return 2.0**self.fraction


F32, F64 = Format(32, 23), Format(64, 52)


class Bits:
    """Integers as wide as the numbers that they are the bits of."""

    def __init__(self, emitter: Emitter, value: Value) -> None:
        self.emitter, self.value = emitter, value

    def _constant(self, number: int) -> Value:
        kind = self.value.type
        if isinstance(kind, llvm.VectorType):
            return llvm.Constant(kind, [number] * kind.count)
        return llvm.Constant(kind, number)

    def _with(self, operation: str, other: Bits | int) -> Bits:
        right = other.value if isinstance(other, Bits) else self._constant(other)
        return Bits(self.emitter, getattr(self.emitter.builder, operation)(self.value, right))

    def __add__(self, other: Bits | int) -> Bits:
        return self._with("add", other)

    def __sub__(self, other: Bits | int) -> Bits:
        return self._with("sub", other)

    def __mul__(self, other: Bits | int) -> Bits:
        return self._with("mul", other)

    def __xor__(self, other: Bits | int) -> Bits:
        return self._with("xor", other)

    def __and__(self, other: Bits | int) -> Bits:
        return self._with("and_", other)

    def __or__(self, other: Bits | int) -> Bits:
        return self._with("or_", other)

    def __lshift__(self, other: int) -> Bits:
        return self._with("shl", other)

    def __rshift__(self, other: int) -> Bits:
        return self._with("lshr", other)

    def number(self) -> Lanes:
        """The floating-point numbers of these bits."""
        kind = self.value.type
        wide = isinstance(kind, llvm.VectorType)
        element = TYPES["f32"] if (kind.element if wide else kind) == I32 else TYPES["f64"]
        target = llvm.VectorType(element, kind.count) if wide else element
        return Lanes(self.emitter, self.emitter.builder.bitcast(self.value, target))


class Lanes:
    """Floating-point numbers; comparisons give conditions for ``where``, false of NaN."""

    def __init__(self, emitter: Emitter, value: Value) -> None:
        self.emitter, self.value = emitter, value

    @property
    def format(self) -> Format:
        kind = self.value.type
        element = kind.element if isinstance(kind, llvm.VectorType) else kind
        return F32 if element == TYPES["f32"] else F64

    def constant(self, number: float) -> Lanes:
        """A number in every lane, of this type."""
        kind = self.value.type
        if isinstance(kind, llvm.VectorType):
            return Lanes(self.emitter, llvm.Constant(kind, [number] * kind.count))
        return Lanes(self.emitter, llvm.Constant(kind, number))

    def _lanes(self, other: Lanes | float) -> Lanes:
        return other if isinstance(other, Lanes) else self.constant(other)

    def _with(self, operation: str, other: Lanes | float) -> Lanes:
        emit: Any = getattr(self.emitter.builder, operation)
        return Lanes(self.emitter, emit(self.value, self._lanes(other).value))

    def __add__(self, other: Lanes | float) -> Lanes:
        return self._with("fadd", other)

    __radd__ = __add__

    def __sub__(self, other: Lanes | float) -> Lanes:
        return self._with("fsub", other)

    def __rsub__(self, other: float) -> Lanes:
        return self.constant(other) - self

    def __neg__(self) -> Lanes:
        return Lanes(self.emitter, self.emitter.builder.fneg(self.value))

    def __mul__(self, other: Lanes | float) -> Lanes:
        return self._with("fmul", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Lanes | float) -> Lanes:
        return self._with("fdiv", other)

    def __lt__(self, other: Lanes | float) -> Value:
        return self.emitter.builder.fcmp_ordered("<", self.value, self._lanes(other).value)

    def __gt__(self, other: Lanes | float) -> Value:
        return self.emitter.builder.fcmp_ordered(">", self.value, self._lanes(other).value)

    def equals(self, other: Lanes | float) -> Value:
        return self.emitter.builder.fcmp_ordered("==", self.value, self._lanes(other).value)

    def times_plus(self, factor: Lanes | float, term: Lanes | float) -> Lanes:
        """self·factor + term, rounded once where the target can."""
        factor, term = self._lanes(factor), self._lanes(term)
        return Lanes(self.emitter, fma(self.emitter, self.value, factor.value, term.value))

    def polynomial(self, coefficients: Sequence[float]) -> Lanes:
        """The sum of coefficients[i]·self^i, by Horner's rule."""
        *rest, last = coefficients
        total = self.constant(last)
        for coefficient in reversed(rest):
            total = total.times_plus(self, coefficient)
        return total

    def at_most(self, bound: float) -> Lanes:
        """The smaller of the two; NaN stays."""
        return where(self > bound, self.constant(bound), self)

    def at_least(self, bound: float) -> Lanes:
        """The larger of the two; NaN stays."""
        return where(self < bound, self.constant(bound), self)

    def magnitude(self) -> Lanes:
        return Lanes(self.emitter, intrinsic(self.emitter, "fabs", self.value))

    def with_sign_of(self, other: Lanes) -> Lanes:
        return Lanes(self.emitter, intrinsic(self.emitter, "copysign", self.value, other.value))

    def bits(self) -> Bits:
        kind, integer = self.value.type, I32 if self.format is F32 else I64
        if isinstance(kind, llvm.VectorType):
            integer = llvm.VectorType(integer, kind.count)
        return Bits(self.emitter, self.emitter.builder.bitcast(self.value, integer))


def where(condition: Value, yes: Lanes, no: Lanes) -> Lanes:
    """``yes`` where the condition holds, else ``no``."""
    return Lanes(yes.emitter, yes.emitter.builder.select(condition, yes.value, no.value))
