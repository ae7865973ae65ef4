"""Where elements lie: LLVM values for subscripts and addresses, inside loops of every kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from llvmlite import ir as llvm

from convc.backend.instructions import I32, I64, TYPES, Value
from ir.loops.nodes import (
    Affine,
    Clamped,
    Expr,
    Load,
    Local,
    Param,
    Scalar,
    flat_index,
    strides,
)


@dataclass
class Scope:
    """A loop level: its variables, and what has been computed in its head block."""

    head: llvm.Block
    addresses: dict[tuple[str, Affine], Value] = field(default_factory=dict)


class Addresses(ABC):
    """The loops around the code being emitted, and the addresses that follow from them."""

    def __init__(self, entry: llvm.Block) -> None:
        self.buffers: dict[str, Param | Local] = {}
        self.bases: dict[str, Value] = {}
        self.constants: dict[str, int] = {}  # unrolled variables
        self.variables: dict[str, tuple[int, Value]] = {}  # run-time ones: loop depth, value
        self.vector: tuple[str, int, int] | None = None  # variable, first value, lanes
        self.scopes = [Scope(entry)]
        self.builder = llvm.IRBuilder(entry)

    @abstractmethod
    def _expression(self, expr: Expr) -> Value:
        """The value of an expression."""

    def _position(self, index: Affine) -> Value:
        base = self._index(index)
        stride = index.coefficient(self.vector[0]) if self.vector else 0
        if not self.vector or not stride:
            return base
        lanes = [stride * lane for lane in range(self.vector[2])]
        return self.builder.add(
            self._splat(base), llvm.Constant(llvm.VectorType(I64, len(lanes)), lanes)
        )

    def _splat(self, value: Value) -> Value:
        """A scalar repeated in every lane; vectors and scalar code pass through."""
        if self.vector is None or isinstance(value.type, llvm.VectorType):
            return value
        wide = llvm.VectorType(value.type, self.vector[2])
        if isinstance(value, llvm.Constant):
            return llvm.Constant(wide, [value.constant] * self.vector[2])
        single = self.builder.insert_element(llvm.Constant(wide, llvm.Undefined), value, I32(0))
        zeros = llvm.Constant(llvm.VectorType(I32, self.vector[2]), None)
        return self.builder.shuffle_vector(single, llvm.Constant(wide, llvm.Undefined), zeros)

    def _fold(self, offset: Affine) -> Affine:
        """An index with unrolled variables and the first lane put in as numbers."""
        terms, constant = [], offset.constant
        for name, factor in offset.terms:
            if name in self.constants:
                constant += factor * self.constants[name]
            elif self.vector and name == self.vector[0]:
                constant += factor * self.vector[1]
            else:
                terms.append((name, factor))
        return Affine(tuple(terms), constant)

    def _address(self, access: Load) -> tuple[Value, int, list[Value]]:
        """The address of the (first lane's) element, and the distance between lanes.

        Where a computed subscript sets the lanes apart, the address of each one's element too.
        """
        buffer = self.buffers[access.buffer]
        flat = flat_index(access.index, buffer.shape)
        stride = flat.coefficient(self.vector[0]) if self.vector else 0
        folded = self._fold(flat)
        varying = sorted(folded.terms, key=lambda term: self.variables[term[0]][0])
        base = self.bases[access.buffer]
        for count in range(1, len(varying) + 1):
            name, factor = varying[count - 1]
            depth, value = self.variables[name]
            scope = self.scopes[depth]
            key = (access.buffer, Affine(tuple(varying[:count]), 0))
            if key not in scope.addresses:
                with self.builder.goto_block(scope.head):
                    step = self.builder.mul(value, I64(factor)) if factor != 1 else value
                    scope.addresses[key] = self.builder.gep(
                        base, [step], source_etype=TYPES[buffer.dtype]
                    )
            base = scope.addresses[key]
        address = self._offset(base, folded.constant, buffer.dtype)
        computed = self._computed(access)
        if computed is None:
            return address, stride, []
        kind = TYPES[buffer.dtype]
        if not isinstance(computed.type, llvm.VectorType):
            return self.builder.gep(address, [computed], source_etype=kind), stride, []
        places = []
        for lane in range(computed.type.count):
            own = self.builder.extract_element(computed, I32(lane))
            first = self._offset(address, lane * stride, buffer.dtype)
            places.append(self.builder.gep(first, [own], source_etype=kind))
        return address, stride, places

    def _computed(self, access: Load) -> Value | None:
        """How many elements the computed subscripts add up to, in each lane where they differ."""
        shape = self.buffers[access.buffer].shape
        total: Value | None = None
        for index, extent, stride in zip(access.index, shape, strides(shape), strict=True):
            if isinstance(index, Clamped):
                value = self._clamped(self._expression(index.value), extent)
                term = self.builder.mul(value, _constant(value.type, stride))
                if total is not None and total.type != term.type:
                    total, term = self._splat(total), self._splat(term)
                total = term if total is None else self.builder.add(total, term)
        return total

    def _clamped(self, value: Value, extent: int) -> Value:
        for comparison, bound in (("<", 0), (">", extent - 1)):
            limit = _constant(value.type, bound)
            beyond = self.builder.icmp_signed(comparison, value, limit)
            value = self.builder.select(beyond, limit, value)
        return value

    def _offset(self, address: Value, elements: int, dtype: Scalar) -> Value:
        if not elements:
            return address
        return self.builder.gep(address, [I64(elements)], source_etype=TYPES[dtype])

    def _index(self, index: Affine) -> Value:
        folded = self._fold(index)
        total: Value = I64(folded.constant)
        for name, factor in folded.terms:
            value = self.variables[name][1]
            term = self.builder.mul(value, I64(factor)) if factor != 1 else value
            total = self.builder.add(total, term)
        return total


def _constant(kind: llvm.Type, number: int) -> Value:
    """A number as a value of an integer type, in every lane of a vector."""
    wide = isinstance(kind, llvm.VectorType)
    return llvm.Constant(kind, [number] * kind.count if wide else number)
