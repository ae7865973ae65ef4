"""Ops on matching elements, conversions, and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import ir
from convc.frontends.onnx.export.call import BOOL, ELEMENT, Call, Emit, plainly
from convc.frontends.onnx.export.functions import UNIFORM
from convc.frontends.onnx.names import OWN
from ir import ops
from ir.dims import Dim


def channels(n: Call[Any], vector: str, shape: Sequence[Dim]) -> str:
    """A number per channel of [N, C, *S], ready to broadcast."""
    return n.reshaped(vector, shape[1:2], (*shape[1:2], *(1,) * (len(shape) - 2)))


def _bias(n: Call[ops.Bias]) -> str:
    return n("Add", n.x, channels(n, n.operands[1], n.shape))


def _scale(n: Call[ops.Scale]) -> str:
    return n("Neg", n.x) if n.op.factor == -1 else n("Mul", n.x, n.number(n.op.factor))


def _clip(n: Call[ops.Clip]) -> str:
    return n("Clip", n.x, n.number(n.op.low, "low"), n.number(n.op.high, "high"))


def _relu_grad(n: Call[ops.ReluGrad]) -> str:
    x, g = n.operands
    zero = n.number(0.0, "zero")
    return n("Where", n("Greater", x, zero), g, zero)


def _comparison(kind: str) -> Emit:
    """1 where it holds, 0 where it does not."""
    return lambda n: n("Cast", n(kind, *n.operands), to=ELEMENT[n.dtype])


def _where(n: Call[ops.Where]) -> str:
    condition, *choices = n.operands
    return n("Where", n("Cast", condition, to=BOOL), *choices)


def _gelu(n: Call[ops.Gelu]) -> str:
    return n("Gelu", n.x, approximate=n.op.approximate)


def _below(n: Call[Any], below: str) -> str:
    """x above 0, something else from there down."""
    return n("Where", n("Greater", n.x, n.number(0.0, "zero")), n.x, below)


def _leaky_relu(n: Call[ops.LeakyRelu]) -> str:
    if n.exact(n.op.slope):
        return n("LeakyRelu", n.x, alpha=n.op.slope)
    return _below(n, n("Mul", n.x, n.number(n.op.slope, "slope")))


def _elu(n: Call[ops.Elu]) -> str:
    if n.exact(n.op.alpha):
        return n("Elu", n.x, alpha=n.op.alpha)
    return _below(n, n("Mul", n("Elu", n.x), n.number(n.op.alpha, "alpha")))


def _cast(n: Call[ops.Cast]) -> str:
    """ONNX leaves open what becomes of numbers that no integer is near to."""
    return n("Cast", n.x, to=ELEMENT[ir.DType.of(n.op.dtype)])


def _constant(n: Call[ops.Constant]) -> str:
    return n.constant(np.array(n.op.value, ir.DType.of(n.op.dtype).numpy))


def _uniform(n: Call[ops.Uniform]) -> str:
    """A function, as it takes many operators on integers of 64 bits."""
    shape = n.extents(n.op.shape)
    return n(UNIFORM, n.x, shape, domain=OWN, dtype=ELEMENT[n.made[0].dtype])


POINTWISE: dict[type[ir.Op], Emit] = {
    ops.Bias: _bias,
    ops.Relu: plainly("Relu"),
    ops.ReluGrad: _relu_grad,
    ops.Add: plainly("Add"),
    ops.Sub: plainly("Sub"),
    ops.Mul: plainly("Mul"),
    ops.Scale: _scale,
    ops.Shift: lambda n: n("Add", n.x, n.number(n.op.term)),
    ops.Div: plainly("Div"),
    ops.Power: plainly("Pow"),
    ops.Maximum: plainly("Max"),
    ops.Minimum: plainly("Min"),
    ops.Greater: _comparison("Greater"),
    ops.GreaterEqual: _comparison("GreaterOrEqual"),
    ops.Equal: _comparison("Equal"),
    ops.Where: _where,
    ops.Identity: lambda n: n.x,
    ops.StopGradient: lambda n: n.x,
    ops.Exp: plainly("Exp"),
    ops.Log: plainly("Log"),
    ops.Sqrt: plainly("Sqrt"),
    ops.Square: lambda n: n("Mul", n.x, n.x),
    ops.Reciprocal: plainly("Reciprocal"),
    ops.Abs: plainly("Abs"),
    ops.Sign: plainly("Sign"),
    ops.Step: lambda n: n("Relu", n("Sign", n.x)),
    ops.Floor: plainly("Floor"),
    ops.Ceil: plainly("Ceil"),
    ops.Round: plainly("Round"),
    ops.Tanh: plainly("Tanh"),
    ops.Logistic: plainly("Sigmoid"),
    ops.Erf: plainly("Erf"),
    ops.Softplus: plainly("Softplus"),
    ops.Silu: lambda n: n("Mul", n.x, n("Sigmoid", n.x)),
    ops.Gelu: _gelu,
    ops.Elu: _elu,
    ops.LeakyRelu: _leaky_relu,
    ops.Clip: _clip,
    ops.Cast: _cast,
    ops.Constant: _constant,
    ops.Uniform: _uniform,
}
