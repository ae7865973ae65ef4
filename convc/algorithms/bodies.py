"""What elementwise ops are in the kernel language: an expression of those of their operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import ir
from convc.errors import AlgorithmError
from ir.loops.builder import call, fma, select
from ir.loops.nodes import Const, Expr, Scalar
from ir.numeric import GOLDEN
from ir.ops import (
    Abs,
    Add,
    Bias,
    Cast,
    Ceil,
    Clip,
    Constant,
    Div,
    Elu,
    Equal,
    Erf,
    Exp,
    Expand,
    Floor,
    Gelu,
    Greater,
    GreaterEqual,
    Identity,
    LeakyRelu,
    Log,
    Logistic,
    Maximum,
    Minimum,
    Mul,
    Power,
    Reciprocal,
    Relu,
    ReluGrad,
    Round,
    Scale,
    Shift,
    Sign,
    Silu,
    Softplus,
    Sqrt,
    Square,
    Step,
    StopGradient,
    Sub,
    Tanh,
    Uniform,
    Where,
)
from ir.ops.activations import CUBIC, ROOT
from ir.types import described

Body = Callable[[Any, Scalar, Sequence[Expr]], Expr]  # op, type of the first operand, operands


def body(node: str, op: ir.Op, dtype: Scalar, operands: Sequence[Expr]) -> Expr:
    """What the entry of an op in ``BODIES`` gives; ``AlgorithmError`` where it is no expression.

    A note says which entry raised what it raises, for which node.
    """
    entry = f"the entry of {type(op).__name__} in BODIES"
    if type(op) not in BODIES:
        hint = "say there what it computes"
        reason = f"{type(op).__name__} has no entry in convc.algorithms.bodies.BODIES"
        raise AlgorithmError(f"node {node!r} ({op.name}): {reason}; {hint}")
    try:
        found: object = BODIES[type(op)](op, dtype, operands)
    except Exception as error:
        error.add_note(f"raised by {entry} for node {node!r} ({op.name})")
        raise
    if not isinstance(found, Expr):
        wanted = "an expression (ir.loops.nodes.Expr) of those of the operands"
        raise AlgorithmError(f"node {node!r} ({op.name}): {entry} gives {described(found)}; it "
                             f"must give {wanted}")  # fmt: skip
    return found


def relu(op: ir.Op, dtype: Scalar, args: Sequence[Expr]) -> Expr:
    """max(x, 0) with NaN kept: one instruction where written as a selection."""
    return _above(args[0], Const(0.0, dtype))


def _above(x: Expr, low: Expr) -> Expr:
    return select(call("lt", x, low), low, x)


def _below(x: Expr, high: Expr) -> Expr:
    return select(call("gt", x, high), high, x)


def _positive(dtype: Scalar, x: Expr) -> Expr:
    return call("gt", x, Const(0.0, dtype))


def _indicator(dtype: Scalar, condition: Expr) -> Expr:
    return select(condition, Const(1.0, dtype), Const(0.0, dtype))


def _of(function: str) -> Body:
    """An op that is one function of the language."""
    return lambda op, dtype, args: call(function, *args)


def _compared(function: str) -> Body:
    return lambda op, dtype, args: _indicator(dtype, call(function, *args))


def _extremum(function: str) -> Body:
    """The first operand at a tie; NaN where either is."""

    def body(op: ir.Op, dtype: Scalar, args: Sequence[Expr]) -> Expr:
        a, b = args
        return select(call("isnan", b), b, select(call(function, a, b), b, a))

    return body


def _where(op: ir.Op, dtype: Scalar, args: Sequence[Expr]) -> Expr:
    c, a, b = args
    return select(call("eq", c, Const(0.0, dtype)), b, a)


def _relu_grad(op: ir.Op, dtype: Scalar, args: Sequence[Expr]) -> Expr:
    return select(_positive(dtype, args[0]), args[1], Const(0.0, dtype))


def _sign(op: ir.Op, dtype: Scalar, args: Sequence[Expr]) -> Expr:
    (x,) = args
    below = select(call("lt", x, Const(0.0, dtype)), Const(-1.0, dtype), x)
    return select(_positive(dtype, x), Const(1.0, dtype), below)


def _step(op: ir.Op, dtype: Scalar, args: Sequence[Expr]) -> Expr:
    (x,) = args
    return select(call("isnan", x), x, _indicator(dtype, _positive(dtype, x)))


def _logistic(op: ir.Op, dtype: Scalar, args: Sequence[Expr]) -> Expr:
    return Const(1.0, dtype) / _one_and_power(dtype, args[0])


def _silu(op: ir.Op, dtype: Scalar, args: Sequence[Expr]) -> Expr:
    return args[0] / _one_and_power(dtype, args[0])


def _one_and_power(dtype: Scalar, x: Expr) -> Expr:
    return Const(1.0, dtype) + call("exp", call("neg", x))


def _gelu(op: Gelu, dtype: Scalar, args: Sequence[Expr]) -> Expr:
    (x,) = args
    if op.approximate == "none":
        turned = call("erf", x * Const(math.sqrt(0.5), dtype))
    else:
        inner = fma(Const(ROOT * CUBIC, dtype), x * x, Const(ROOT, dtype))
        turned = call("tanh", x * inner)
    return x * Const(0.5, dtype) * (Const(1.0, dtype) + turned)


def _elu(op: Elu, dtype: Scalar, args: Sequence[Expr]) -> Expr:
    (x,) = args
    return select(_positive(dtype, x), x, Const(op.alpha, dtype) * call("expm1", x))


def _leaky_relu(op: LeakyRelu, dtype: Scalar, args: Sequence[Expr]) -> Expr:
    (x,) = args
    return select(_positive(dtype, x), x, x * Const(op.slope, dtype))


def _clip(op: Clip, dtype: Scalar, args: Sequence[Expr]) -> Expr:
    return _below(_above(args[0], Const(op.low, dtype)), Const(op.high, dtype))


def _uniform(op: Uniform, dtype: Scalar, args: Sequence[Expr]) -> Expr:
    """From the seed and the position of the element."""
    seed, position = args
    count = (position + Const(1, "i64")) * Const(GOLDEN, "i64")
    bits = call("shr", call("mix", seed + count), Const(40, "i64"))
    return call(op.dtype, bits) * Const(2.0**-24, cast(Scalar, op.dtype))


BODIES: dict[type[ir.Op], Body] = {
    Bias: lambda op, dtype, args: args[0] + args[1],
    Add: lambda op, dtype, args: args[0] + args[1],
    Sub: lambda op, dtype, args: args[0] - args[1],
    Mul: lambda op, dtype, args: args[0] * args[1],
    Div: lambda op, dtype, args: args[0] / args[1],
    Power: _of("pow"),
    Maximum: _extremum("lt"),
    Minimum: _extremum("gt"),
    Greater: _compared("gt"),
    GreaterEqual: _compared("ge"),
    Equal: _compared("eq"),
    Where: _where,
    Scale: lambda op, dtype, args: args[0] * Const(op.factor, dtype),
    Shift: lambda op, dtype, args: args[0] + Const(op.term, dtype),
    Identity: lambda op, dtype, args: args[0],
    StopGradient: lambda op, dtype, args: args[0],
    Relu: relu,
    ReluGrad: _relu_grad,
    Exp: _of("exp"),
    Log: _of("log"),
    Sqrt: _of("sqrt"),
    Square: lambda op, dtype, args: args[0] * args[0],
    Reciprocal: lambda op, dtype, args: Const(1.0, dtype) / args[0],
    Abs: _of("abs"),
    Sign: _sign,
    Step: _step,
    Floor: _of("floor"),
    Ceil: _of("ceil"),
    Round: _of("rint"),
    Tanh: _of("tanh"),
    Logistic: _logistic,
    Erf: _of("erf"),
    Softplus: _of("softplus"),
    Silu: _silu,
    Gelu: _gelu,
    Elu: _elu,
    LeakyRelu: _leaky_relu,
    Clip: _clip,
    Cast: lambda op, dtype, args: call(op.dtype, *args),
    Constant: lambda op, dtype, args: Const(op.value, dtype),
    Uniform: _uniform,
    Expand: lambda op, dtype, args: args[0],
}
