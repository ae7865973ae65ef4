"""Transfer functions; those that are no op of their own are made of others."""

from __future__ import annotations

from collections.abc import Callable

import ir
from convc.frontends.onnx.call import Call, Emit

SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def _plainly(function: Callable[[ir.Builder, ir.Value], ir.Value]) -> Emit:
    """A function without attributes."""
    return lambda n: function(n.b, n.x())


def _elu(n: Call) -> ir.Value:
    return n.b.elu(n.x(), n.attributes.number("alpha", 1.0))


def _selu(n: Call) -> ir.Value:
    alpha = n.attributes.number("alpha", SELU_ALPHA)
    return n.b.elu(n.x(), alpha) * n.attributes.number("gamma", SELU_GAMMA)


def _celu(n: Call) -> ir.Value:
    alpha = n.attributes.number("alpha", 1.0)
    return n.b.elu(n.x(), 1.0) if alpha == 1 else n.b.elu(n.x() * (1 / alpha), 1.0) * alpha


def _leaky_relu(n: Call) -> ir.Value:
    return n.b.leaky_relu(n.x(), n.attributes.number("alpha", 0.01))


def _prelu(n: Call) -> ir.Value:
    x = n.x()
    slope = n.scalar(1, x.type.rank)
    if slope is not None:
        return n.b.leaky_relu(x, slope)
    return n.b.where(n.b.greater(x, 0.0), x, x * n.x(1))


def _gelu(n: Call) -> ir.Value:
    return n.b.gelu(n.x(), n.attributes.choice("approximate", "none", "tanh"))


def _mish(b: ir.Builder, x: ir.Value) -> ir.Value:
    return x * b.tanh(b.softplus(x))


def _swish(n: Call) -> ir.Value:
    x, alpha = n.x(), n.attributes.number("alpha", 1.0)
    return n.b.silu(x) if alpha == 1 else x * n.b.logistic(x * alpha)


def _swiglu(n: Call) -> ir.Value:
    """The gate is the first operand."""
    gate, alpha = n.x(), n.attributes.number("alpha", 1.0)
    return (n.b.silu(gate) if alpha == 1 else gate * n.b.logistic(gate * alpha)) * n.x(1)


def _hard_sigmoid(n: Call) -> ir.Value:
    alpha, beta = n.attributes.number("alpha", 0.2), n.attributes.number("beta", 0.5)
    return n.b.clip(n.x() * alpha + beta, 0.0, 1.0)


def _hard_swish(b: ir.Builder, x: ir.Value) -> ir.Value:
    return x * b.clip(x * (1 / 6) + 0.5, 0.0, 1.0)


def _softsign(b: ir.Builder, x: ir.Value) -> ir.Value:
    return x / (b.abs(x) + 1.0)


def _shrink(n: Call) -> ir.Value:
    """x nearer to 0 by `bias` where it is beyond ±`lambd`, and 0 where not."""
    x = n.x()
    bias, limit = n.attributes.number("bias", 0.0), n.attributes.number("lambd", 0.5)
    above = n.b.where(n.b.greater(x, limit), x - bias, 0.0)
    return n.b.where(n.b.greater(x * -1.0, limit), x + bias, above)


def _thresholded_relu(n: Call) -> ir.Value:
    x = n.x()
    return n.b.where(n.b.greater(x, n.attributes.number("alpha", 1.0)), x, 0.0)


ACTIVATIONS: dict[str, Emit] = {
    "Relu": _plainly(lambda b, x: b.relu(x)),
    "Sigmoid": _plainly(lambda b, x: b.logistic(x)),
    "Tanh": _plainly(lambda b, x: b.tanh(x)),
    "Softplus": _plainly(lambda b, x: b.softplus(x)),
    "Softsign": _plainly(_softsign),
    "Mish": _plainly(_mish),
    "HardSwish": _plainly(_hard_swish),
    "HardSigmoid": _hard_sigmoid,
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _celu,
    "Gelu": _gelu,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Swish": _swish,
    "SwiGLU": _swiglu,
    "Shrink": _shrink,
    "ThresholdedRelu": _thresholded_relu,
}
