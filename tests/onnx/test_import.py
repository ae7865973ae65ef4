"""What an imported graph keeps of its model, what can be given at import, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc import onnx_backend
from convc.errors import InputError, LoadError
from convc.frontends.onnx.errors import ConstantNeededError
from convc.frontends.onnx.importer import NEWEST
from ir.types import Array
from tests.onnx.models import (
    FLOAT,
    INT64,
    agrees,
    as_runtime,
    info,
    make,
    model_of,
    node_model,
    onnx,
    runtime,
)
from tests.oracles import SEED

BOOL, FLOAT16 = 9, 10
RNG = np.random.default_rng(SEED)


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def one(kind: str, shape: Any, **attributes: Any) -> Any:
    """A model of one node of an input x and a result y."""
    node = make.make_node(kind, ["x"], ["y"], name="the_node", **attributes)
    return model_of([node], [info("x", shape)], [info("y", None)])


# ---------------------------------------------------------------- symbolic sizes


def pyramid() -> Any:
    """What exporters write for x.view(x.size(0), -1) and for resizing to the size of another."""
    nodes = [
        make.make_node("Conv", ["x", "w"], ["down"], strides=[2, 2], pads=[1, 1, 1, 1]),
        make.make_node("Shape", ["x"], ["size"]),
        make.make_node("Gather", ["size", "zero"], ["n"]),
        make.make_node("Concat", ["n", "rest"], ["shape"], axis=0),
        make.make_node("Reshape", ["down", "shape"], ["flat"]),
        make.make_node("Slice", ["size", "two", "four"], ["plane"]),
        make.make_node("Shape", ["down"], ["small"]),
        make.make_node("Slice", ["small", "zero", "two"], ["rows"]),
        make.make_node("Concat", ["rows", "plane"], ["wanted"], axis=0),
        make.make_node("Resize", ["down", "", "", "wanted"], ["up"], mode="nearest"),
    ]
    stored = {
        "w": draw(4, 3, 3, 3), "zero": np.array([0]), "two": np.array([2]), "four": np.array([4]),
        "rest": np.array([-1]),
    }  # fmt: skip
    outputs = [info(name, None) for name in ("down", "flat", "up")]
    return model_of(nodes, [info("x", ["batch", 3, "height", "width"])], outputs, stored)


def test_symbolic_sizes_stay_what_the_model_calls_them() -> None:
    graph = convc.load(pyramid())
    assert str(graph.inputs["x"]) == "f32[batch, 3, height, width]"
    assert graph.symbols == {"batch", "height", "width"}
    assert graph.types[graph.outputs["flat"]].shape[0] == graph.inputs["x"].shape[0]
    assert graph.types[graph.outputs["up"]].shape[2:] == graph.inputs["x"].shape[2:]
    assert {node.op.name for node in graph.nodes} == {"conv", "reshape", "resize"}


def test_one_import_serves_all_sizes() -> None:
    model = pyramid()
    graph = convc.load(model)
    compiled = convc.compile(graph, threads=1)
    for shape in ((1, 3, 8, 8), (3, 3, 7, 12), (2, 3, 17, 5)):
        given = {"x": draw(*shape)}
        for output, wanted in runtime(model, given).items():
            for found in (ir.interpret(graph, given), compiled.run(given)):
                np.testing.assert_allclose(found[output], wanted, rtol=0, atol=1e-5)


def test_sizes_without_a_name_are_called_after_input_and_axis() -> None:
    graph = convc.load(one("Relu", [None, 3, "a/b", "a b", "1st", 0]))
    assert str(graph.inputs["x"]) == "f32[x_0, 3, a_b, a_b_1, n1st, 0]"


def test_shapes_and_symbols_can_be_given() -> None:
    graph = convc.load(one("Relu", ["N", None, 5]), {"x": ("M", 4, 5)})
    assert str(graph.inputs["x"]) == "f32[M, 4, 5]"
    unknown = one("Relu", None)
    with pytest.raises(LoadError, match=r"input 'x': its shape is unknown; give it: shapes="):
        convc.load(unknown)
    assert str(convc.load(unknown, {"x": (2,)}).inputs["x"]) == "f32[2]"


@pytest.mark.parametrize(("arguments", "reason"), [
    ({"shapes": {"y": (1,)}}, "shapes: the model has no input 'y'"),
    ({"constants": {"X": np.ones(1)}}, "constants: the model has no input 'X'"),
    ({"shapes": {"x": (1, -1)}}, "extent -1 of input 'x' is negative"),
    ({"shapes": {"x": (1, 2.5)}}, "is no extent of input 'x'"),
    ({"shapes": {"x": (True,)}}, "is no extent of input 'x'"),
])  # fmt: skip
def test_what_is_given_must_fit(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        convc.load(one("Relu", ["N"]), **arguments)


def test_a_value_that_a_shape_depends_on() -> None:
    model = node_model("Reshape", {"x": draw(2, 6), "shape": np.array([3, 4])})
    with pytest.raises(ConstantNeededError, match=r"constants=\{'shape': \.\.\.\}") as caught:
        convc.load(model)
    assert caught.value.inputs == {"shape"}
    graph = convc.load(model, constants={"shape": np.array([4, -1])})
    assert list(graph.inputs) == ["x"]
    assert str(graph.types[graph.outputs["y0"]]) == "f32[4, 3]"


# ---------------------------------------------------------------- what is refused


def test_all_that_cannot_be_imported_is_told_at_once() -> None:
    """Each node with its operands' types and its attributes; not what only depends on them."""
    nodes = [
        make.make_node("Relu", ["x"], ["a"]),
        make.make_node("Frobnicate", ["a", "w"], ["b"], name="first", mode="odd", depth=3,
                       factors=[0.5, 2.0], scale=2.5),
        make.make_node("Relu", ["b"], ["c"]),
        make.make_node("Warp", ["x"], ["d"], domain="com.other", axes=list(range(40))),
        make.make_node("Warp", ["x"], ["e"], domain="com.other"),
        make.make_node("Conv", ["x", "w"], ["f"], name="bad", group=5),
        make.make_node("Add", ["c", "f"], ["g"]),
        make.make_node("Mystery", ["g"], ["y"]),
    ]  # fmt: skip
    model = model_of(nodes, [info("x", ["N", 3, 8, 8])], [info("y", None)], {"w": draw(4, 3, 3, 3)})
    with pytest.raises(LoadError) as caught:
        convc.load(model)
    first, *lines = str(caught.value).splitlines()
    count = "5 of 8 nodes cannot be imported: Frobnicate, com.other.Warp x2, Conv, Mystery"
    assert first == f"model: {count}"
    assert len(lines) == 5
    operands = "f32[N, 3, 8, 8], float32[4, 3, 3, 3]"
    assert lines[0].strip() == (
        f"node 'first': Frobnicate({operands}) with depth=3, factors=[0.5, 2.0], "
        "mode=odd, scale=2.5: convc has no such operator"
    )
    assert "node 'd': com.other.Warp(f32[N, 3, 8, 8]) with axes=[0, 1, 2, 3, " in lines[1]
    assert len(lines[1]) < 200
    assert lines[2].strip() == (
        "node 'e': com.other.Warp(f32[N, 3, 8, 8]): convc has no such operator"
    )
    assert lines[3].strip().startswith(f"node 'bad': Conv({operands}) with group=5: ")
    assert lines[4].strip() == "node 'y': Mystery(-): convc has no such operator"


def test_what_is_refused_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(one("Frobnicate", [2]), path)
    with pytest.raises(LoadError, match=f"^{path}: 1 of 1 nodes cannot be imported: Frobnicate"):
        convc.load(path)


def test_only_so_many_nodes_are_listed() -> None:
    nodes = [make.make_node("Frobnicate", ["x"], [f"y{number}"]) for number in range(150)]
    with pytest.raises(LoadError) as caught:
        convc.load(model_of(nodes, [info("x", [2])], [info("y0", None)]))
    first, *lines = str(caught.value).splitlines()
    assert first.endswith("150 of 150 nodes cannot be imported: Frobnicate x150")
    assert len(lines) == 101
    assert lines[-1].strip() == "and 50 more"


def test_inputs_that_are_no_tensors_are_refused() -> None:
    sequence = make.make_tensor_sequence_value_info("x", FLOAT, [2])
    node = make.make_node("Identity", ["x"], ["y"])
    with pytest.raises(LoadError, match="input 'x': only tensors are supported"):
        convc.load(model_of([node], [sequence], [info("y", None)]))
    with pytest.raises(LoadError, match="input 'x': tensors of STRING are not supported"):
        convc.load(model_of([node], [info("x", [2], 8)], [info("y", None)]))


# ---------------------------------------------------------------- names and types


def test_names_stay() -> None:
    nodes = [
        make.make_node("Conv", ["image:0", "conv/w"], ["conv 1"]),
        make.make_node("Relu", ["conv 1"], ["conv_1"]),
        make.make_node("Neg", ["conv_1"], ["out(y)"]),
    ]
    model = model_of(
        nodes, [info("image:0", [1, 3, 5, 5])], [info("out(y)", None)],
        {"conv/w": draw(2, 3, 3, 3)},
    )  # fmt: skip
    graph = convc.load(model)
    assert list(graph.inputs) == ["image:0"]
    assert list(graph.weights) == ["conv/w"]
    assert list(graph.outputs) == ["out(y)"]
    assert [node.outputs for node in graph.nodes] == [("conv 1",), ("conv_1",), ("out(y)",)]
    assert ir.parse(str(graph), graph.weights) == graph


def test_narrow_floats_are_computed_wide_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    x, w = draw(2, 3).astype(np.float16), draw(3, 4).astype(np.float16)
    node = make.make_node("MatMul", ["x", "w"], ["y"])
    model = model_of([node], [info("x", ["N", 3], FLOAT16)], [info("y", None, FLOAT16)], {"w": w})
    with caplog.at_level(logging.WARNING, "convc"):
        graph = convc.load(model)
    assert [record.getMessage() for record in caplog.records] == [
        "tested: FLOAT16 is computed as float32"
    ]
    assert str(graph.inputs["x"]) == "f32[N, 3]"
    found = ir.interpret(graph, {"x": x.astype(np.float32)})["y"]
    np.testing.assert_allclose(found, x.astype(np.float64) @ w.astype(np.float64), rtol=1e-6)
    (result,) = onnx_backend.run_model(model, [x])
    assert result.dtype == np.float16


def test_operands_that_are_not_floats() -> None:
    x, yes = draw(2, 3), np.array([[True, False, True]])
    node = make.make_node("Where", ["yes", "x", "other"], ["y"])
    inputs = [info("yes", [1, 3], BOOL), info("x", ["N", 3])]
    model = model_of([node], inputs, [info("y", None)], {"other": np.float32(7)})
    given = {"yes": yes, "x": x}
    agrees(model, given, runtime(model, given))
    labels = node_model("Gather", {"x": draw(5, 2), "i": np.array([[0, -1]], np.int32)})
    as_runtime(labels, {"x": draw(5, 2), "i": np.array([[0, -1]], np.int32)})


def test_a_weight_that_is_also_listed_as_an_input() -> None:
    """As in files of the format's third version."""
    w = draw(3, 4)
    node = make.make_node("MatMul", ["x", "w"], ["y"])
    model = model_of([node], [info("x", [2, 3]), info("w", [3, 4])], [info("y", None)], {"w": w})
    graph = convc.load(model)
    assert (list(graph.inputs), list(graph.weights)) == (["x"], ["w"])
    as_runtime(model, {"x": draw(2, 3)})


def test_a_function_of_the_model_takes_attributes_of_its_call() -> None:
    opsets = [make.make_opsetid("", 21), make.make_opsetid("own", 1)]
    inner = make.make_node("LeakyRelu", ["a"], ["b"])
    reference = onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=1)
    inner.attribute.append(reference)
    nodes = [inner, make.make_node("Add", ["b", "a"], ["c"])]
    function = make.make_function("own", "Bent", ["a"], ["c"], nodes, opsets, ["slope"])
    calls = [
        make.make_node("Bent", ["x"], ["m"], domain="own", slope=0.25),
        make.make_node("Bent", ["m"], ["y"], domain="own", slope=0.5),
    ]
    model = model_of(calls, [info("x", ["N", 4])], [info("y", ["N", 4])])
    model.functions.append(function)
    model.opset_import.append(opsets[1])
    as_runtime(model, {"x": draw(3, 4)})


def test_a_branch_that_a_shape_chooses() -> None:
    """Both branches read what lies around them; only the chosen one is imported."""
    squeeze = make.make_graph(
        [make.make_node("Squeeze", ["x", "first"], ["small"])], "then", [], [info("small", None)]
    )
    other = make.make_graph(
        [make.make_node("Frobnicate", ["x"], ["odd"])], "else", [], [info("odd", None)]
    )
    nodes = [
        make.make_node("Shape", ["x"], ["size"]),
        make.make_node("Gather", ["size", "zero"], ["n"]),
        make.make_node("Equal", ["n", "unit"], ["is_one"]),
        make.make_node("If", ["is_one"], ["y"], then_branch=squeeze, else_branch=other),
    ]
    stored = {"zero": np.array(0), "unit": np.array(1), "first": np.array([0])}
    graph = convc.load(model_of(nodes, [info("x", [1, 4])], [info("y", None)], stored))
    assert str(graph.types[graph.outputs["y"]]) == "f32[4]"
    with pytest.raises(LoadError, match=r"'y': If.*Frobnicate.*no such operator"):
        convc.load(model_of(nodes, [info("x", [2, 4])], [info("y", None)], stored))


def test_an_opset_that_is_newer_is_taken_for_the_newest(caplog: pytest.LogCaptureFixture) -> None:
    model = node_model("Relu", {"x": draw(2)}, opset=999)
    with caplog.at_level(logging.WARNING, "convc"):
        convc.load(model)
    assert f"opset 999 is newer than {NEWEST}, the newest that is known" in caplog.text


def test_shape_arithmetic_of_other_integers() -> None:
    """int32, as casts of exporters make it, beside int64."""
    nodes = [
        make.make_node("Shape", ["x"], ["size"]),
        make.make_node("Cast", ["size"], ["narrow"], to=6),
        make.make_node("Gather", ["narrow", "zero"], ["n"]),
        make.make_node("Mul", ["n", "two"], ["twice"]),
        make.make_node("Cast", ["twice"], ["wide"], to=INT64),
        make.make_node("Concat", ["wide", "rest"], ["shape"], axis=0),
        make.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    stored = {"zero": np.array([0]), "two": np.array([2], np.int32), "rest": np.array([-1])}
    model = model_of(nodes, [info("x", ["N", 6])], [info("y", None)], stored)
    assert str(convc.load(model).types["y"]) == "f32[2*N, 3]"
    as_runtime(model, {"x": draw(5, 6)})
