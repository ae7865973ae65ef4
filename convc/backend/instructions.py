"""Single values: LLVM's types, intrinsics, shuffles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from llvmlite import ir as llvm

from convc.backend.target import ITEM_BYTES, Target

I1, BYTE, I32, I64 = (llvm.IntType(bits) for bits in (1, 8, 32, 64))
POINTER = llvm.PointerType()
MASKING = 32  # bytes of a vector from which on instructions can leave lanes out
SHUFFLED = range(2, 5)  # distances between lanes for which shuffles beat single loads
TYPES = {"f32": llvm.FloatType(), "f64": llvm.DoubleType(), "i64": I64, "bool": I1}
Value = Any  # an llvmlite value; the library is untyped


class Emitter(Protocol):
    """Where instructions go."""

    module: llvm.Module
    builder: llvm.IRBuilder
    target: Target


def intrinsic(emitter: Emitter, name: str, *args: Value) -> Value:
    """Call an LLVM intrinsic overloaded on the type of its first argument."""
    kind = args[0].type
    return _call(emitter, f"llvm.{name}.{_suffix(kind)}", kind, args)


def truncated(emitter: Emitter, value: Value) -> Value:
    """Floats as ``i64``: towards 0, saturating, 0 for NaN."""
    wide = isinstance(value.type, llvm.VectorType)
    kind = llvm.VectorType(I64, value.type.count) if wide else I64
    name = f"llvm.fptosi.sat.{_suffix(kind)}.{_suffix(value.type)}"
    return _call(emitter, name, kind, (value,))


def _call(emitter: Emitter, name: str, kind: llvm.Type, args: Sequence[Value]) -> Value:
    function = emitter.module.globals.get(name)
    if function is None:
        signature = llvm.FunctionType(kind, [arg.type for arg in args])
        function = llvm.Function(emitter.module, signature, name)
    return emitter.builder.call(function, args)


def _suffix(kind: llvm.Type) -> str:
    """How the names of intrinsics spell a type."""
    if isinstance(kind, llvm.VectorType):
        return f"v{kind.count}{_suffix(kind.element)}"
    return {TYPES["f32"]: "f32", TYPES["f64"]: "f64", I64: "i64"}[kind]


def fma(emitter: Emitter, a: Value, b: Value, c: Value) -> Value:
    """One rounding where the target has the instruction, else two."""
    if emitter.target.fused_multiply_add:
        return intrinsic(emitter, "fma", a, b, c)
    return emitter.builder.fadd(emitter.builder.fmul(a, b), c)


def transposed(builder: llvm.IRBuilder, rows: Sequence[Value]) -> list[Value]:
    """The columns of a square of rows: log2(side) rounds of exchanging blocks between rows."""
    rows, side = list(rows), len(rows)
    distance = side // 2
    while distance:
        low = [i if not i & distance else i - distance + side for i in range(side)]
        high = [i + distance if not i & distance else i + side for i in range(side)]
        masks = [llvm.Constant(llvm.VectorType(I32, side), mask) for mask in (low, high)]
        for i in range(side):
            if not i & distance:
                pair = rows[i], rows[i + distance]
                rows[i] = builder.shuffle_vector(*pair, masks[0])
                rows[i + distance] = builder.shuffle_vector(*pair, masks[1])
        distance //= 2
    return rows


def vector_load(emitter: Emitter, address: Value, lanes: int, dtype: str) -> Value:
    """Consecutive elements, a lane each, and nothing beyond.

    Where the target can leave lanes out, any number of them takes one instruction; LLVM would take
    those that are no power of two apart.
    """
    element, align, full = TYPES[dtype], ITEM_BYTES[dtype], 1 << (lanes - 1).bit_length()
    if lanes == full or emitter.target.vector_bytes < MASKING:
        return emitter.builder.load(address, typ=llvm.VectorType(element, lanes), align=align)
    wide = llvm.VectorType(element, full)
    mask = llvm.Constant(llvm.VectorType(I1, full), [lane < lanes for lane in range(full)])
    anything = llvm.Constant(wide, llvm.Undefined)
    name = f"llvm.masked.load.{_suffix(wide)}.p0"
    value = _call(emitter, name, wide, (address, I32(align), mask, anything))
    first = llvm.Constant(llvm.VectorType(I32, lanes), list(range(lanes)))
    return emitter.builder.shuffle_vector(value, anything, first)


def gathered(builder: llvm.IRBuilder, places: Sequence[Value], dtype: str) -> Value:
    """The elements at these addresses, a lane each."""
    element = TYPES[dtype]
    value: Value = llvm.Constant(llvm.VectorType(element, len(places)), llvm.Undefined)
    for lane, place in enumerate(places):
        loaded = builder.load(place, typ=element, align=ITEM_BYTES[dtype])
        value = builder.insert_element(value, loaded, I32(lane))
    return value


def strided_load(
    builder: llvm.IRBuilder, address: Value, stride: int, lanes: int, dtype: str
) -> Value:
    """Every ``stride``-th element from an address on, a lane each.

    Small strides read whole vectors, the last one flush with the last lane, and shuffle; so
    nothing beyond the last element needed is touched.
    """
    align, element = ITEM_BYTES[dtype], TYPES[dtype]

    def place(lane: int) -> Value:
        return builder.gep(address, [I64(lane * stride)], source_etype=element)

    if stride == -1:
        wide = llvm.VectorType(element, lanes)
        forwards = builder.load(place(lanes - 1), typ=wide, align=align)
        mask = llvm.Constant(llvm.VectorType(I32, lanes), list(range(lanes - 1, -1, -1)))
        return builder.shuffle_vector(forwards, forwards, mask)
    if stride not in SHUFFLED:
        return gathered(builder, [place(lane) for lane in range(lanes)], dtype)
    value: Value = llvm.Constant(llvm.VectorType(element, lanes), llvm.Undefined)
    wide, kinds = (llvm.VectorType(kind, lanes) for kind in (element, I32))
    for piece in range(stride):
        start = min(piece * lanes, (lanes - 1) * stride + 1 - lanes)
        first = builder.gep(address, [I64(start)], source_etype=element)
        part = builder.load(first, typ=wide, align=align)
        mask = [
            lanes + lane * stride - start if lane * stride // lanes == piece else lane
            for lane in range(lanes)
        ]
        value = builder.shuffle_vector(value, part, llvm.Constant(kinds, mask))
    return value
