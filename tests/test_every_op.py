"""Every op, and its gradients, compiled: beside the reference in float64."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

import convc
import ir
from convc.backend.target import available
from ir.ops.composite import Composite, CompositeGrad

CASES = [
    pytest.param(example, target, dtype, id=f"{op.name}: {example.name}-{target}-{dtype}")
    for op in ir.OPS
    for number, example in enumerate(op.examples())
    for target in available()
    for dtype in ("f32", "f64")
    if number % 2 == (dtype == "f64")  # both types, and every example once a target
]
DIVIDING = {"lp_pool", "weighted_pool", "channel_pool", "adaptive_pool", "mean", "batch_norm",
            "batch_norm_training", "layer_norm", "group_norm", "rms_norm",
            "local_response_norm"}  # or taking roots  # fmt: skip
SUMS = [
    pytest.param(example, id=f"{op.name}: {example.name}")
    for op in ir.OPS
    if issubclass(op, Composite) and op is not CompositeGrad and op.name not in DIVIDING
    for example in op.examples()
]  # the ops of one part are in `test_algorithms`


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


@pytest.mark.parametrize("example", SUMS)
def test_sums_of_whole_numbers_are_exact_in_both_directions(example: ir.Example) -> None:
    b = ir.Builder("one")
    operands = [b.input(f"in{i}", type) for i, type in enumerate(example.inputs)]
    b.output("y", b.apply(example.op, *operands))
    graph, rng = ir.vjp(b.build()), np.random.default_rng(4)
    arrays = {f"in{i}": a for i, a in enumerate(example.arrays(rng, integers=True))}
    upstream = graph.inputs["grad_y"].static_shape
    arrays["grad_y"] = rng.integers(-4, 5, upstream).astype(np.float32)
    want = ir.interpret(graph, arrays)
    for threads in (1, 3):
        got = convc.compile(graph, threads, accuracy="exact").run(arrays)
        for name, array in want.items():
            np.testing.assert_array_equal(got[name], array, err_msg=name)


def graph_dtype(dtype: str) -> str:
    return {"f32": "float32", "f64": "float64"}[dtype]
