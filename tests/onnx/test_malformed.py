"""Models that are damaged or hostile: one type of error, and no crash, wait or want of memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.frontends.onnx import importer, load, tensors
from ir.types import Array
from tests.onnx.models import FLOAT, INT64, info, make, model_of, node_model, onnx
from tests.onnx.mutations import refused
from tests.oracles import SEED

X = np.ones((1, 2, 5, 5), np.float32)
W = np.ones((2, 2, 3, 3), np.float32)
HUGE = 2**62


@pytest.mark.parametrize(
    ("kind", "count"), [("lenet", 400), ("squeezenet", 60), ("suite", 400), ("forms", 400)]
)
def test_damaged_files_are_refused_or_loaded(kind: str, count: int) -> None:
    assert refused(kind, SEED, count, timeout=120) > count // 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("kind", "count"), [("lenet", 8000), ("squeezenet", 1000), ("suite", 9000), ("forms", 9000)]
)
def test_many_damaged_files(kind: str, count: int, seed: int) -> None:
    assert refused(kind, SEED + seed, count, timeout=600) > count // 2


def refuses(model: Any, reason: str) -> str:
    """The message of the only error there may be, soon; it says where and why."""
    start = time.perf_counter()
    with pytest.raises(convc.LoadError, match=reason) as caught:
        load(model)
    assert time.perf_counter() - start < 20
    return str(caught.value)


def one(kind: str, *constants: Any, given: Sequence[str] = ("x",), **attributes: Any) -> Any:
    """A model of one node, of the image x and constants."""
    stored = {f"c{number}": np.asarray(array) for number, array in enumerate(constants)}
    return node_model(kind, {name: X for name in given}, stored, **attributes)


HOSTILE: list[tuple[Any, str]] = [
    (one("Conv", W, strides=[-1, 1]), "strides"),
    (one("Conv", W, dilations=[0, 1]), "dilations"),
    (one("Conv", W, dilations=[HUGE, 1]), "the_node"),
    (one("Conv", W, group=0), "group"),
    (one("Conv", W, group=-1), "group"),
    (one("Conv", W, group=HUGE), "the_node"),
    (one("Conv", W, pads=[HUGE] * 4), "larger than|64 bits|beyond"),
    (one("MaxPool", kernel_shape=[0, 2]), "kernel_shape"),
    (one("MaxPool", kernel_shape=[2, -2]), "kernel_shape"),
    (one("MaxPool", kernel_shape=[HUGE, HUGE]), "the_node"),
    (one("MaxPool", kernel_shape=[2, 2], strides=[0, 0]), "strides"),
    (one("AveragePool", kernel_shape=[2, 2], pads=[-HUGE] * 4), "the_node"),
    (one("Pad", np.array([0, 0, 0, 0, 0, 0, HUGE, HUGE])), "larger than|64 bits|beyond"),
    (one("Expand", np.array([HUGE, 1, 1, 1, 1])), "larger than"),
    (one("Tile", np.array([1, 1, HUGE, HUGE])), "larger than|64 bits"),
    (one("Tile", np.array([1, 1, -1, 1])), "the_node"),
    (one("Reshape", np.array([-1, -1])), "shape"),
    (one("Reshape", np.array([-5, 10])), "shape"),
    (one("Reshape", np.array([7, -1])), "do not fit"),
    (one("Transpose", perm=[0, 0, 1, 2]), "the_node"),
    (one("Transpose", perm=[0, 1, 2, HUGE]), "the_node"),
    (one("Concat", axis=HUGE), "axis"),
    (one("Concat", axis=-5), "axis"),
    (one("Unsqueeze", np.arange(HUGE, HUGE + 3)), "not an axis"),
    (one("Unsqueeze", np.arange(60)), "axes"),
    (one("Split", axis=1, num_outputs=HUGE), "num_outputs"),
    (one("Split", np.array([HUGE, 2 - HUGE]), axis=1), "the_node"),
    (one("Gather", np.array([HUGE])), "beyond an axis"),
    (one("Slice", np.array([0]), np.array([1]), np.array([0]), np.array([0])), "steps of 0"),
    (one("ReduceSum", np.array([9])), "not an axis"),
    (one("Softmax", axis=4), "not an axis"),
    (one("Resize", np.array([], np.float32), np.array([1, 1, -2, 2], np.float32)), "positive"),
    (one("Resize", np.array([], np.float32), np.array([1, 1, np.nan, 2], np.float32)), "positive"),
    (one("DepthToSpace", blocksize=0), "blocksize"),
    (one("DepthToSpace", blocksize=HUGE), "the_node"),
    (one("GroupNormalization", np.ones(2), np.ones(2), num_groups=0), "num_groups"),
    (one("Cast", to=999), "type 999"),
    (one("Add", np.ones((3, 7), np.float32)), "the_node"),
    (one("NoSuchOperator"), "no such operator"),
]


EMPTY = [info("x", [0, 2**40, 2**40])]
"""No elements, but more than 64 bits along one axis once two are one."""
HOSTILE += [
    (model_of([make.make_node("Flatten", ["x"], ["y"], axis=1)], EMPTY, [info("y", None)]), "64 b"),
    (model_of([make.make_node("Concat", ["x"] * 3, ["y"], axis=1)], [info("x", [0, HUGE])],
              [info("y", None)]), "64 bits"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "reason"), HOSTILE)
def test_hostile_attributes(model: Any, reason: str) -> None:
    refuses(model, reason)


CONSTANT: list[tuple[str, tuple[Array, ...]]] = [
    ("ConstantOfShape", (np.array([HUGE]),)),
    ("ConstantOfShape", (np.array([2**20, 2**20]),)),
    ("ConstantOfShape", (np.array([-1]),)),
    ("Expand", (np.ones(1, np.float32), np.array([2**20, 2**20]))),
    ("Tile", (np.ones(9, np.float32), np.array([2**40]))),
    ("Tile", (np.ones(9, np.float32), np.array([-1]))),
    ("Range", (np.array(0), np.array(HUGE), np.array(1))),
    ("Range", (np.array(0), np.array(9), np.array(0))),
    ("Range", (np.array(0.0), np.array(np.inf), np.array(1.0))),
    ("Pad", (np.ones(9, np.float32), np.array([2**40, 2**40]))),
    ("Gather", (np.ones((1, 2**14), np.float32), np.zeros(2**18, np.int64))),
    ("Add", (np.ones((2**20, 1), np.float32), np.ones((1, 2**20), np.float32))),
    ("Where", (np.ones((2**20, 1), bool), np.ones((1, 2**20), np.float32), np.float32(0))),
]


@pytest.mark.parametrize(("kind", "operands"), CONSTANT)
def test_constants_that_are_too_large(kind: str, operands: tuple[Array, ...]) -> None:
    """They are refused before anything is allocated."""
    stored = {f"c{number}": np.asarray(array) for number, array in enumerate(operands)}
    node = make.make_node(kind, list(stored), ["y"], name="the_node")
    refuses(model_of([node], [], [info("y", None)], stored), kind)


def test_a_diagonal_that_is_too_large() -> None:
    node = make.make_node("EyeLike", ["x"], ["y"])
    refuses(model_of([node], [info("x", [2**20, 2**20])], [info("y", None)]), "takes more than")


def test_constants_that_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is too large, but all together are."""
    monkeypatch.setattr(importer, "MAX_BYTES", 2**26)
    nodes = [make.make_node("ConstantOfShape", ["n"], [f"y{i}"]) for i in range(200)]
    model = model_of(nodes, [], [info("y0", None)], {"n": np.array([2**17])})
    refuses(model, "takes more than")


def test_graphs_within_each_other() -> None:
    node = make.make_node("Relu", ["x"], ["y"])
    for level in range(25):
        graph = make.make_graph([node], "branch", [], [info(node.output[0], None)])
        node = make.make_node("If", ["yes"], [f"y{level}"], then_branch=graph)
    outputs, yes = [info(node.output[0], None)], np.array(True)
    graph = load(model_of([node], [info("x", [2])], outputs, {"yes": yes}))
    assert [type(node.op) for node in graph.nodes] == [ir.ops.Relu]
    message = refuses(model_of([node], [info("x", [2])], outputs, {"yes": ~yes}), "else_branch")
    assert "'y24'" in message


def test_graphs_a_thousand_deep() -> None:
    """protobuf reads none that deep; it is written here by hand."""
    data = make.make_node("Identity", ["x"], ["y"]).SerializeToString()
    for _ in range(1000):
        graph = field(1, data)
        attribute = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        data = field(1, b"yes") + field(2, b"y") + field(4, b"If") + field(5, attribute)
    refuses(field(7, field(1, data)), "not an ONNX model")


def field(number: int, data: bytes) -> bytes:
    """A field of a protobuf message."""
    size, length = len(data), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + data


def calling(*functions: tuple[str, Sequence[str]]) -> Any:
    """A model that calls the first of some functions, each of which calls others."""
    opsets = [make.make_opsetid("", 21), make.make_opsetid("own", 1)]
    made = []
    for name, called in functions:
        nodes = [make.make_node(other, ["a"], [f"b{i}"], domain="own")
                 for i, other in enumerate(called)]  # fmt: skip
        nodes.append(make.make_node("Identity", ["a"], ["b"]))
        made.append(make.make_function("own", name, ["a"], ["b"], nodes, opsets))
    node = make.make_node(functions[0][0], ["x"], ["y"], domain="own")
    model = model_of([node], [info("x", [2])], [info("y", [2])])
    model.functions.extend(made)
    model.opset_import.append(opsets[1])
    return model


def test_functions_that_call_themselves() -> None:
    refuses(calling(("f", ["f"])), "f -> f")
    refuses(calling(("f", ["g"]), ("g", ["h", "f"]), ("h", [])), "circle: [fg] -> ")


def test_functions_that_are_deep_within_each_other() -> None:
    chain = [(f"f{i}", [f"f{i + 1}"]) for i in range(500)]
    message = refuses(calling(*chain, ("f500", [])), "in function f0")
    assert "deep" in message


def test_functions_that_multiply() -> None:
    """Ten calls in each of ten functions are 10^10 nodes."""
    refuses(calling(*((f"f{i}", [f"f{i + 1}"] * 10) for i in range(10)), ("f10", [])), "more than")


def test_a_loop_without_end() -> None:
    for count in (np.array(HUGE), None):
        body = make.make_graph(
            [make.make_node("Identity", [name], [f"{name}_out"]) for name in ("going", "old")],
            "body",
            [info("round", [], INT64), info("going", [], 9), info("old", [2])],
            [info("going_out", [], 9), info("old_out", [2])],
        )
        stored = {"yes": np.array(True), **({} if count is None else {"count": count})}
        names = ["" if count is None else "count", "yes", "x"]
        node = make.make_node("Loop", names, ["y"], body=body)
        refuses(model_of([node], [info("x", [2])], [info("y", [2])], stored), "rounds")


def test_loops_within_loops() -> None:
    """Of few rounds each, and of nothing but rounds."""
    nodes: list[Any] = []
    for level in range(4):
        inputs = [info(f"round{level}", [], INT64), info(f"going{level}", [], 9)]
        body = make.make_graph(nodes, "body", inputs, [info(f"going{level}", [], 9)])
        nodes = [make.make_node("Loop", ["count", "yes"], [], body=body)]
    nodes.append(relu("x", "y"))
    stored = {"yes": np.array(True), "count": np.array(1000)}
    refuses(model_of(nodes, [info("x", [2])], [info("y", [2])], stored), "more than 200000 nodes")


@pytest.mark.parametrize("listed", [True, False])
def test_a_weight_of_a_loop_is_read_once(listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file cannot become large in memory by its rounds; the graph holds the weight once."""
    read: list[str] = []
    whole = tensors.array_of
    monkeypatch.setattr(tensors, "array_of", lambda t, e: read.append(t.name) or whole(t, e))
    w = onnx.numpy_helper.from_array(np.array([3, 5], np.float32), "w")
    nodes = [] if listed else [make.make_node("Constant", [], ["w"], value=w)]
    nodes.append(make.make_node("Mul", ["old", "w"], ["new"]))
    body = make.make_graph(
        nodes, "body", [info("round", [], INT64), info("going", [], 9), info("old", [2])],
        [info("going", [], 9), info("new", [2]), info("w", [2])], [w] if listed else [],
    )  # fmt: skip
    node = make.make_node("Loop", ["count", "yes", "x"], ["y", "all"], body=body)
    outputs = [info("y", [2]), info("all", None)]
    stored = {"yes": np.array(True), "count": np.array(4)}
    model = model_of([node], [info("x", [2])], outputs, stored)
    graph = load(model)
    assert sorted(read) == ["count", "w", "yes"]
    assert sorted(map(np.shape, graph.weights.values())) == [(2,), (4, 2)]
    found = ir.interpret(graph, {"x": np.ones(2, np.float32)})
    np.testing.assert_array_equal(found["y"], [81, 625])
    monkeypatch.setattr(importer, "MAX_BYTES", 20)
    refuses(model, "takes more than")


def relu(source: str, result: str) -> Any:
    return make.make_node("Relu", [source], [result])


@pytest.mark.parametrize(("nodes", "reason"), [
    ([relu("x", "a"), relu("x", "a"), relu("a", "y")], "'a' is defined a second time"),
    ([relu("x", "x"), relu("x", "y")], "'x' is defined a second time"),
    ([relu("x", "w"), relu("w", "y")], "'w' is defined a second time"),
    ([relu("b", "a"), relu("a", "b"), relu("a", "y")], "reads 'b', which no node before it"),
    ([relu("a", "y"), relu("x", "a")], "reads 'a', which no node before it"),
    ([relu("y", "y")], "reads 'y'"),
    ([relu("x", "a")], "no node defines the output 'y'"),
    ([make.make_node("Relu", [], ["y"])], "operand 0 is missing"),
    ([make.make_node("Add", ["x"], ["y"])], "operand 1 is missing"),
    ([make.make_node("Add", ["x", ""], ["y"])], "operand 1 is missing"),
    ([make.make_node("Relu", ["x"], [])], "no node defines the output 'y'"),
    ([], "no node defines the output 'y'"),
])  # fmt: skip
def test_graphs_that_are_none(nodes: list[Any], reason: str) -> None:
    w = {"w": np.ones(2, np.float32)}
    refuses(model_of(nodes, [info("x", [2])], [info("y", [2])], w), reason)


def test_names_that_are_not_unique() -> None:
    model = model_of([relu("x", "y")], [info("x", [2]), info("x", [2])], [info("y", [2])])
    refuses(model, "'x'")
    model = model_of([relu("x", "y")], [info("x", [2])], [info("y", [2]), info("y", [2])])
    refuses(model, "'y'")
    model = model_of([relu("w", "y")], [], [info("y", [2])], {"w": np.ones(2, np.float32)})
    model.graph.initializer.append(model.graph.initializer[0])
    refuses(model, "weight 'w' is defined a second time")


def with_weight(tensor: Any) -> Any:
    """A model of a weight that is stored as a test wants it."""
    model = model_of([relu("w", "y")], [], [info("y", None)])
    model.graph.initializer.append(tensor)
    return model


@pytest.mark.parametrize(("fields", "reason"), [
    ({"dims": [2, 3], "raw_data": bytes(23)}, "23 bytes are stored for 6 elements"),
    ({"dims": [2, 3], "raw_data": bytes(48)}, "48 bytes are stored for 6 elements"),
    ({"dims": [2, 3]}, "0 numbers are stored for 6 elements"),
    ({"dims": [2, 3], "float_data": [1, 2]}, "2 numbers are stored for 6 elements"),
    ({"dims": [2, 3], "data_type": INT64, "raw_data": bytes(24)}, "24 bytes are stored"),
    ({"dims": [HUGE, HUGE], "raw_data": bytes(24)}, "24 bytes are stored"),
    ({"dims": [-2, -3], "raw_data": bytes(24)}, "dimensions"),
    ({"dims": [1] * 1000, "raw_data": bytes(4)}, "dimensions"),
    ({"dims": [2], "data_type": 8, "string_data": [b"a", b"b"]}, "STRING"),
    ({"dims": [2], "data_type": 14, "raw_data": bytes(16)}, "COMPLEX64"),
    ({"dims": [2], "data_type": 99, "raw_data": bytes(16)}, "type 99"),
    ({"dims": [2], "data_type": 0, "raw_data": bytes(16)}, "UNDEFINED"),
])  # fmt: skip
def test_weights_that_are_not_what_they_say(fields: dict[str, Any], reason: str) -> None:
    tensor = onnx.TensorProto(**{"name": "w", "data_type": FLOAT, **fields})
    assert "weight 'w'" in refuses(with_weight(tensor), reason)


@pytest.mark.parametrize("data", [b"", b"\x00", b"no model", bytes(1000), b"\xff" * 1000])
def test_files_that_are_no_models(data: bytes, tmp_path: Path) -> None:
    refuses(data, "not an ONNX model")
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert str(path) in refuses(path, "not an ONNX model")


def test_opsets_that_are_too_old() -> None:
    refuses(model_of([relu("x", "y")], [info("x", [2])], [info("y", [2])], opset=6), "opset 6")


def test_a_model_that_says_no_opset() -> None:
    model = model_of([relu("x", "y")], [info("x", [2])], [info("y", [2])])
    del model.opset_import[0]
    refuses(model, "does not say of which opset it is")
