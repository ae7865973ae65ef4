"""Every op, and the gradient of every formula of ops, for any batch, beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

import convc
import ir
from convc.errors import ExportError
from convc.frontends.onnx.export.operators import NO_FORM
from ir import ops
from ir.ops.composite import Composite
from ir.types import Array
from tests.onnx.models import runtime
from tests.onnx.test_export import alike, checked
from tests.oracles import SEED

LEAST = {("pad", "crop all"): 5}
"""Batches that ONNX takes: its crops must not be wider than an axis."""
N = ir.TensorType.parse("f32[N]").shape[0]


def for_any_batch(example: ir.Example) -> ir.Example | None:
    """The example with N for the first extent of its first operand, and of others that share it;
    None where the op does not allow it."""
    first = example.inputs[0] if example.inputs else None
    if first is None or not first.rank:
        return None
    alike = [i for i, type in enumerate(example.inputs) if type.shape[:1] == first.shape[:1]]
    wanted = example.op.infer(*example.inputs)
    for others in (c for count in range(len(alike)) for c in combinations(alike[1:], count)):
        types = tuple(
            type.with_shape(N, *type.shape[1:]) if i == 0 or i in others else type
            for i, type in enumerate(example.inputs)
        )
        try:
            made = example.op.infer(*types)
        except ir.Error:
            continue
        if [type.bind({"N": first.shape[0]}) for type in made] == list(wanted):
            return replace(example, inputs=types)
    return None


def counts_rows(example: ir.Example) -> bool:
    """Whether a formula goes over what it reduces in rounds: as many as there are elements."""
    products = isinstance(example.op, ops.ReduceProd | ops.ReduceProdGrad)
    return products and 0 in example.op.axes


def cases(gradients: bool) -> Iterator[object]:
    for op in ir.OPS:
        if op in NO_FORM or (gradients and not issubclass(op, Composite)):
            continue
        for example in op.examples():
            symbolic = for_any_batch(example)
            if symbolic is not None and not isinstance(example.op, ops.CompositeGrad):
                batch = LEAST.get((op.name, example.name), example.inputs[0].shape[0] or 2)
                yield pytest.param(symbolic, batch, id=f"{op.name}: {example.name}")


def graph_of(example: ir.Example) -> ir.Graph:
    b = ir.Builder("example")
    operands = [b.input(f"x{number}", type) for number, type in enumerate(example.inputs)]
    for number, value in enumerate(b.emit(example.op, operands)):
        b.output(f"y{number}", value)
    return b.build()


def drawn(graph: ir.Graph, example: ir.Example, batch: int) -> dict[str, Array]:
    rng = np.random.default_rng(SEED)
    bound = replace(example, inputs=tuple(type.bind({"N": batch}) for type in example.inputs))
    given = {f"x{number}": array for number, array in enumerate(bound.arrays(rng))}
    for name, type in graph.inputs.items():
        if name not in given:
            given[name] = rng.standard_normal(type.bind({"N": batch}).static_shape)
        given[name] = given[name].astype(type.dtype.numpy)
    return given


def right(graph: ir.Graph, example: ir.Example, least: int) -> None:
    model = checked(graph)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param == "N"
    for batch in (least, least + 1):
        given = drawn(graph, example, batch)
        alike(runtime(model, given), ir.interpret(graph, given, "float64"))


def refused(graph: ir.Graph) -> None:
    with pytest.raises(ExportError, match=r"bind N, as in graph\.bind\(\{'N': 8\}\)"):
        convc.to_onnx(graph)


@pytest.mark.parametrize(("example", "batch"), cases(gradients=False))
def test_an_op_for_any_batch(example: ir.Example, batch: int) -> None:
    graph = graph_of(example)
    if isinstance(example.op, ops.ReduceProdGrad) and counts_rows(example):
        refused(graph)
    else:
        right(graph, example, batch)


@pytest.mark.parametrize(("example", "batch"), cases(gradients=True))
def test_the_gradient_of_a_formula_for_any_batch(example: ir.Example, batch: int) -> None:
    graph = graph_of(example)
    floats = [name for name, type in graph.inputs.items() if type.dtype.is_float]
    back = ir.vjp(graph, floats)
    if counts_rows(example):
        refused(back)
    else:
        right(back, example, batch)


@pytest.mark.parametrize("unbiased", [True, False])
def test_a_training_step_for_any_batch(unbiased: bool) -> None:
    rng = np.random.default_rng(SEED)
    b = ir.Builder("training")
    x, labels = b.input("x", "f32[N, 2, 6, 5]"), b.input("labels", "i64[N]")
    w = b.weight("w", rng.standard_normal((4, 2, 3, 3), np.float32))
    mean, variance = (b.weight(n, np.full(4, v, np.float32)) for n, v in (("m", 0), ("v", 1)))
    y, new_mean, new_variance = b.batch_norm_training(
        b.conv(x, w, pad="same"), mean, variance, unbiased=unbiased
    )
    y = b.apply(ops.AdaptivePool("average", (2, 2), "cover", ()), b.relu(y))
    b.output("loss", b.softmax_cross_entropy(b.mean(y, (2, 3)), labels))
    b.output("new_mean", new_mean)
    b.output("new_variance", new_variance)
    graph = ir.vjp(b.build(), ["w", "x"])
    model = checked(graph)
    for batch in (1, 5):
        given = {"x": rng.standard_normal((batch, 2, 6, 5), np.float32)}
        given["labels"] = rng.integers(0, 4, batch)
        for name in graph.inputs.keys() - given.keys():
            given[name] = np.ones(graph.inputs[name].static_shape, np.float32)
        wanted = ir.interpret(graph, given, "float64")
        alike(runtime(model, given), wanted)
        alike(ir.interpret(convc.load(model), given, "float64"), wanted, 1e-6)
