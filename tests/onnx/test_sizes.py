"""Symbolic sizes as numbers that are computed with when the model runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.errors import LoadError
from ir.types import Array
from tests.onnx.models import INT64, as_runtime, info, make, model_of, node_model, runtime
from tests.oracles import SEED

RNG = np.random.default_rng(SEED)
SHAPES = ((1, 2, 3), (4, 2, 1), (3, 2, 17))


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def written(*steps: tuple[Any, ...], opset: int = 17) -> Any:
    """A model of x f32[N, 2, W]; `n` and `w` are its sizes, `f` the latter as a float, `one` 1."""
    stored = {"i0": np.array(0), "i2": np.array(2), "one": np.array(1), "five": np.array(5),
              "half": np.array(2, np.float32), "zero": np.array(0)}  # fmt: skip
    nodes = [
        make.make_node("Shape", ["x"], ["s"]),
        make.make_node("Gather", ["s", "i0"], ["n"]),
        make.make_node("Gather", ["s", "i2"], ["w"]),
        make.make_node("Cast", ["w"], ["f"], to=1),
    ]
    for kind, inputs, output, attributes in steps:
        nodes.append(make.make_node(kind, inputs.split(), [output], **attributes))
    element = INT64 if steps[-1][2] == "whole" else 1
    result = info(steps[-1][2], None, element)
    return model_of(nodes, [info("x", ["N", 2, "W"])], [result], stored, opset)


MODELS = {
    "mean by hand": (
        ("ReduceSum", "x", "total", {"keepdims": 0}), ("Div", "total f", "y", {})),
    "scaled": (("Mul", "x f", "y", {}),),
    "a float less a size": (("Sub", "f x", "y", {}),),
    "at least one": (("Max", "w five", "m", {}), ("Cast", "m", "c", {"to": 1}),
                     ("Div", "x c", "y", {})),
    "the smaller": (("Min", "w n five", "whole", {}),),
    "positions": (("Range", "zero w one", "r", {}), ("Cast", "r", "c", {"to": 1}),
                  ("Add", "x c", "y", {})),
    "fives": (("Range", "one n five", "whole", {}),),
    "a condition": (("Greater", "w five", "g", {}), ("Where", "g x f", "y", {})),
    "given out": (("Mul", "n w", "whole", {}),),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_computed_with(name: str) -> None:
    model = written(*MODELS[name])
    graph = convc.load(model)
    compiled = convc.compile(graph, threads=1)
    for shape in SHAPES:
        given = {"x": draw(*shape)}
        for output, wanted in runtime(model, given).items():
            for found in (ir.interpret(graph, given)[output], compiled.run(given)[output]):
                assert found.shape == wanted.shape
                assert found.dtype == wanted.dtype
                np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [
    (("Sqrt", "f", "root", {}), ("Mul", "x root", "y", {})),
    (("Mean", "f f", "m", {}), ("Mul", "x m", "y", {})),
    (("Div", "f half", "h", {}), ("Mul", "x h", "y", {})),
])  # fmt: skip
def test_what_might_be_rounded_is_refused(steps: tuple[Any, ...]) -> None:
    with pytest.raises(LoadError, match="symbolic size"):
        convc.load(written(*steps))
    model = written(*steps)
    x = draw(2, 2, 5)
    found = convc.compile(convc.load(model, {"x": (2, 2, 5)}), threads=1)(x)
    np.testing.assert_allclose(found, runtime(model, {"x": x})["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flags", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize(("shape", "axis"), [((3, 7), 1), ((5, 1, 4), -3), ((2, 17, 1), 1)])
def test_running_sums(flags: tuple[int, int], dtype: Any, shape: Any, axis: int) -> None:
    x = (draw(*shape) * 9).astype(dtype)
    attributes = {"exclusive": flags[0], "reverse": flags[1]}
    as_runtime(node_model("CumSum", {"x": x}, {"axis": np.array(axis)}, **attributes), {"x": x})


def build(make_output: Callable[[ir.Builder], ir.Value]) -> ir.Graph:
    b = ir.Builder("tested")
    b.output("y", make_output(b))
    return b.build()


def unpooled(b: ir.Builder) -> ir.Value:
    x = b.input("x", "f32[N, 3, 7, 6]")
    return b.max_unpool(b.max_pool(x, 2), b.max_pool_indices(x, 2), (7, 6))


EXPORTS: dict[str, tuple[Callable[[ir.Builder], ir.Value], dict[str, tuple[int, ...]]]] = {
    "softmax cross entropy": (
        lambda b: b.softmax_cross_entropy(b.input("x", "f32[N, 4]"), b.input("l", "i64[N]")),
        {"x": (4,), "l": ()}),
    "dense labels": (
        lambda b: b.softmax_cross_entropy(
            b.input("x", "f32[N, 4, 3, 5]"), b.input("l", "i64[N, 3, 5]")),
        {"x": (4, 3, 5), "l": (3, 5)}),
    "cross entropy": (
        lambda b: b.cross_entropy(
            b.softmax(b.input("x", "f32[N, 4]")), b.input("l", "i64[N]")),
        {"x": (4,), "l": ()}),
    "running sum": (lambda b: b.cumsum(b.input("x", "f32[N, 4, 3]"), 1), {"x": (4, 3)}),
    "unpooled": (unpooled, {"x": (3, 7, 6)}),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPORTS)
def test_what_is_exported_with_symbolic_sizes_comes_back(name: str) -> None:
    make_output, shapes = EXPORTS[name]
    graph = build(make_output)
    back = convc.load(convc.to_onnx(graph))
    assert back.inputs == graph.inputs
    compiled = convc.compile(back, threads=1)
    for count in (1, 5):
        given = {
            key: RNG.integers(0, 4, (count, *shape)) if key == "l" else draw(count, *shape)
            for key, shape in shapes.items()
        }
        wanted = ir.interpret(graph, given, dtype="float64")["y"]
        np.testing.assert_allclose(compiled.run(given)["y"], wanted, rtol=1e-5, atol=1e-5)


def test_numbers_that_are_constants_of_the_graph_go_out() -> None:
    b = ir.Builder("tested")
    number = b.constant(1.5)
    b.output("y", b.mul(b.add(number, b.input("x", "f32[]")), b.weight("w", draw(3))))
    graph = b.build()
    given = {"x": np.array(2.0, np.float32)}
    found = runtime(convc.to_onnx(graph), given)["y"]
    np.testing.assert_allclose(found, 3.5 * graph.weights["w"], rtol=1e-6)
