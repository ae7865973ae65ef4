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
    upstream = {
        f"grad_{name}": np.asarray(rng.standard_normal(back.types[value].static_shape))
        for name, value in back.outputs.items()
    }
    floats = [name for name, type in back.inputs.items() if type.dtype.is_float]
    got = ir.interpret(ir.vjp(back, floats), {**inputs, **upstream})

    def total(name, moved):
        results = ir.interpret(back, {**inputs, name: np.asarray(moved)})
        return sum(np.sum(array * upstream[f"grad_{key}"]) for key, array in results.items())

    for name in floats:
        step, h = np.asarray(rng.standard_normal(inputs[name].shape)), 1e-5
        slope = total(name, inputs[name] + h * step) - total(name, inputs[name] - h * step)
        along = np.sum(got[f"grad_{name}"] * step)
        np.testing.assert_allclose(along, slope / (2 * h), rtol=1e-5, atol=1e-5, err_msg=name)
