"""Composite ops differentiated twice: the gradient of a gradient is the finite difference."""

import numpy as np
import pytest

import ir
from ir.ops.composite import Composite, CompositeGrad

EXAMPLES = [
    pytest.param(example, id=f"{op.name}: {example.name}")
    for op in ir.OPS
    if issubclass(op, Composite) and op is not CompositeGrad
    for example in op.examples()[::3]
]


def gradient_graph(example):
    """The op and its gradients, whose outputs are called d_in0, d_in1, …"""
    b = ir.Builder("one")
    values = [b.input(f"in{i}", type) for i, type in enumerate(example.inputs)]
    for i, result in enumerate(b.emit(example.op, values)):
        b.output(f"y{i}", result)
    back = ir.vjp(b.build().with_dtype("f64"))
    grads = {f"d_{n[5:]}": v for n, v in back.outputs.items() if n.startswith("grad_")}
    return back.replace(outputs=grads)


@pytest.mark.parametrize("example", EXAMPLES)
def test_gradients_of_gradients_are_finite_differences(example):
    rng = np.random.default_rng(4)
    back = gradient_graph(example)
    inputs = {f"in{i}": array for i, array in enumerate(example.arrays(rng, "float64"))}
    for name, type in back.inputs.items():
        if name not in inputs:
            inputs[name] = np.asarray(rng.standard_normal(type.static_shape))
    assert ir.check_gradients(back, inputs, tolerance=1e-5) <= 1e-5
