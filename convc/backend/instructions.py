"""Single values: LLVM's types, intrinsics, shuffles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from llvmlite import ir as llvm

from convc.backend.target import ITEM_BYTES, Target

I1, BYTE, I32, I64 = (llvm.IntType(bits) for bits in (1, 8, 32, 64))
POINTER = llvm.PointerType()
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
    element = kind.element if isinstance(kind, llvm.VectorType) else kind
    suffix = "f32" if element == TYPES["f32"] else "f64"
    if isinstance(kind, llvm.VectorType):
        suffix = f"v{kind.count}{suffix}"
    full = f"llvm.{name}.{suffix}"
    function = emitter.module.globals.get(full)
    if function is None:
        signature = llvm.FunctionType(kind, [arg.type for arg in args])
        function = llvm.Function(emitter.module, signature, full)
    return emitter.builder.call(function, args)


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


def strided_load(
    builder: llvm.IRBuilder, address: Value, stride: int, lanes: int, dtype: str
) -> Value:
    """Every ``stride``-th element from an address on, a lane each.

    Small strides read whole vectors, the last one flush with the last lane, and shuffle; so
    nothing beyond the last element needed is touched.
    """
    align, element = ITEM_BYTES[dtype], TYPES[dtype]
    value: Value = llvm.Constant(llvm.VectorType(element, lanes), llvm.Undefined)
    if stride not in SHUFFLED:
        for lane in range(lanes):
            place = builder.gep(address, [I64(lane * stride)], source_etype=element)
            loaded = builder.load(place, typ=element, align=align)
            value = builder.insert_element(value, loaded, I32(lane))
        return value
    wide, kinds = (llvm.VectorType(kind, lanes) for kind in (element, I32))
    for piece in range(stride):
        start = min(piece * lanes, (lanes - 1) * stride + 1 - lanes)
        place = builder.gep(address, [I64(start)], source_etype=element)
        part = builder.load(place, typ=wide, align=align)
        mask = [
            lanes + lane * stride - start if lane * stride // lanes == piece else lane
            for lane in range(lanes)
        ]
        value = builder.shuffle_vector(value, part, llvm.Constant(kinds, mask))
    return value
