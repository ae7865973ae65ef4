"""Every op, and its gradients, compiled: beside the reference in float64."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available

CASES = [
    pytest.param(example, target, dtype, id=f"{op.name}: {example.name}-{target}-{dtype}")
    for op in ir.OPS
    for number, example in enumerate(op.examples())
    for target in available()
    for dtype in ("f32", "f64")
    if number % 2 == (dtype == "f64")  # both types, and every example once a target
]


@pytest.mark.parametrize(("example", "target", "dtype"), CASES)
def test_an_op_and_its_gradients_run_natively(example: ir.Example, target: str, dtype: str) -> None:
    b = ir.Builder("one")
    operands = [b.input(f"in{i}", type) for i, type in enumerate(example.inputs)]
    for number, result in enumerate(b.emit(example.op, operands)):
        b.output(f"y{number}", result)
    graph = b.build().with_dtype(dtype)
    with suppress(ir.GradientError):  # tests of `ir` know which ops have none
        graph = ir.vjp(graph)
    rng = np.random.default_rng(3)
    arrays = dict(
        zip((v.name for v in operands), example.arrays(rng, graph_dtype(dtype)), strict=True)
    )
    for name, type in graph.inputs.items():
        if name not in arrays:
            arrays[name] = rng.standard_normal(type.static_shape).astype(type.dtype.numpy)
    results = convc.compile(graph, threads=1, target=target).run(arrays)
    reference = ir.interpret(graph, arrays, dtype="float64")
    tolerance = 1e-4 if dtype == "f32" else 1e-11
    for name, expected in reference.items():
        scale = np.max(np.abs(expected), initial=1.0)
        np.testing.assert_allclose(
            results[name], expected, rtol=0, atol=tolerance * scale, err_msg=name
        )


def graph_dtype(dtype: str) -> str:
    return {"f32": "float32", "f64": "float64"}[dtype]
