"""Instructions for each function of the kernel language."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir as llvm

from convc.backend import elementary
from convc.backend.instructions import TYPES, Emitter, Value, fma, intrinsic, truncated
from convc.backend.lanes import Bits
from convc.backend.power import power
from ir.numeric import FIRST, SECOND


def _is_float(value: Value) -> bool:
    kind = value.type.element if isinstance(value.type, llvm.VectorType) else value.type
    return kind in (TYPES["f32"], TYPES["f64"])


def _arithmetic(name: str) -> Callable[..., Value]:
    def emit(emitter: Emitter, *args: Value) -> Value:
        prefix = "f" if _is_float(args[0]) else ""
        return getattr(emitter.builder, prefix + name)(*args)

    return emit


def _comparison(operator: str) -> Callable[[Emitter, Value, Value], Value]:
    def emit(emitter: Emitter, a: Value, b: Value) -> Value:
        if _is_float(a):
            return emitter.builder.fcmp_ordered(operator, a, b)
        return emitter.builder.icmp_signed(operator, a, b)

    return emit


def _intrinsic(name: str) -> Callable[..., Value]:
    return lambda emitter, *args: intrinsic(emitter, name, *args)


def _shift_right(emitter: Emitter, value: Value, bits: Value) -> Value:
    return emitter.builder.lshr(value, bits)


def _mix(emitter: Emitter, value: Value) -> Value:
    z = Bits(emitter, value)
    z = (z ^ (z >> 30)) * FIRST
    z = (z ^ (z >> 27)) * SECOND
    return (z ^ (z >> 31)).value


def _truncation(emitter: Emitter, value: Value) -> Value:
    return truncated(emitter, value) if _is_float(value) else value


def _conversion(result: str) -> Callable[[Emitter, Value], Value]:
    def emit(emitter: Emitter, value: Value) -> Value:
        wide = isinstance(value.type, llvm.VectorType)
        kind = llvm.VectorType(TYPES[result], value.type.count) if wide else TYPES[result]
        if value.type == kind:
            return value
        if not _is_float(value):
            return emitter.builder.sitofp(value, kind)
        if result == "f64":
            return emitter.builder.fpext(value, kind)
        return emitter.builder.fptrunc(value, kind)

    return emit


EMITTERS: dict[str, Callable[..., Value]] = {
    "add": _arithmetic("add"),
    "sub": _arithmetic("sub"),
    "mul": _arithmetic("mul"),
    "div": _arithmetic("div"),
    "fma": fma,
    "max": _intrinsic("maximum"),
    "min": _intrinsic("minimum"),
    "neg": _arithmetic("neg"),
    "abs": _intrinsic("fabs"),
    "sqrt": _intrinsic("sqrt"),
    "exp": elementary.exp,
    "expm1": elementary.expm1,
    "log": elementary.log,
    "tanh": elementary.tanh,
    "erf": elementary.erf,
    "softplus": elementary.softplus,
    "pow": power,
    "rint": elementary.rint,
    "floor": elementary.floor,
    "ceil": elementary.ceil,
    "shr": _shift_right,
    "mix": _mix,
    "lt": _comparison("<"),
    "le": _comparison("<="),
    "gt": _comparison(">"),
    "ge": _comparison(">="),
    "eq": _comparison("=="),
    "isnan": lambda emitter, a: emitter.builder.fcmp_unordered("uno", a, a),
    "and": lambda emitter, a, b: emitter.builder.and_(a, b),
    "or": lambda emitter, a, b: emitter.builder.or_(a, b),
    "not": lambda emitter, a: emitter.builder.not_(a),
    "select": lambda emitter, c, a, b: emitter.builder.select(c, a, b),
    "f32": _conversion("f32"),
    "f64": _conversion("f64"),
    "i64": _truncation,
}
