"""Names of all sorts come in and go out as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import convc
import ir
from convc.errors import LoadError
from tests.onnx.models import OPSET, as_runtime, info, make, model_of, onnx, runtime
from tests.oracles import SEED

RNG = np.random.default_rng(SEED)
ODD = ["input:0", "a/b c", "StatefulPartitionedCall:1", 'say "x"', "a\\b", "a\nb", "%x", "π=(3,1)"]


def draw(*shape: int) -> ir.types.Array:
    return RNG.standard_normal(shape).astype(np.float32)


def model(name: str) -> Any:
    """All of whose names are odd: a convolution, a product with itself, two outputs."""
    x, w, b, kept, y = (f"{name}{end}" for end in ("", "/w", ":0", " kept", "^"))
    nodes = [
        make.make_node("Conv", [x, w, b], [kept], name="a node"),
        make.make_node("Mul", [kept, kept], [y], name="a node too"),
    ]
    weights = {w: draw(4, 3, 3, 3), b: draw(4)}
    outputs = [info(each, ["N", 4, 4, 6]) for each in (kept, y)]
    return model_of(nodes, [info(x, ["N", 3, 6, 8])], outputs, weights)


def names(proto: Any) -> list[list[str]]:
    graph = proto.graph
    values = [[value.name for value in part] for part in (graph.input, graph.output)]
    results = [name for node in graph.node for name in node.output if "." not in name]
    return [*values, sorted(tensor.name for tensor in graph.initializer), results]


@pytest.mark.parametrize("name", ODD)
def test_names_come_in_and_go_out_as_they_are(name: str) -> None:
    proto = model(name)
    graph = convc.load(proto)
    assert list(graph.inputs) == [name]
    assert list(graph.outputs) == [f"{name} kept", f"{name}^"]
    assert set(graph.weights) == {f"{name}/w", f"{name}:0"}
    out = convc.to_onnx(graph)
    onnx.checker.check_model(out, full_check=True)
    assert names(out) == names(proto)
    assert convc.load(out) == graph.replace(name=out.graph.name)
    given = {name: draw(2, 3, 6, 8)}
    as_runtime(proto, given)
    wanted, found = runtime(proto, given), runtime(out, given)
    for output, array in wanted.items():
        np.testing.assert_allclose(found[output], array, rtol=0, atol=1e-5)


def test_names_in_branches_loops_and_functions() -> None:
    """They may be those of other branches and rounds, and begin with what holds them."""
    body = make.make_graph(
        [make.make_node("Identity", ["go"], ["go on"]),
         make.make_node("Add", ["carried:0", "in:0"], ["sum:0"])],
        "body", [info("i", [], 7), info("go", [], 9), info("carried:0", None)],
        [info("go on", [], 9), info("sum:0", None)],
    )  # fmt: skip
    branches = {
        which: make.make_graph(
            [make.make_node(kind, ["sum:0"], ["same name"])], which, [], [info("same name", None)]
        )
        for which, kind in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    nodes = [
        make.make_node("Loop", ["rounds", "", "in:0"], ["sum:0"], body=body),
        make.make_node("If", ["yes"], ["of then"], **branches),
        make.make_node("If", ["no"], ["of else"], **branches),
        make.make_node("Twice", ["of then"], ["twice (a)"], domain="own"),
        make.make_node("Twice", ["of else"], ["twice (b)"], domain="own"),
        make.make_node("Sub", ["twice (a)", "twice (b)"], ["out:0"]),
    ]
    weights = {"rounds": np.array(2), "yes": np.array(True), "no": np.array(False)}
    proto = model_of(nodes, [info("in:0", ["N", 3])], [info("out:0", ["N", 3])], weights)
    opsets = [make.make_opsetid("", OPSET)]
    inner = [make.make_node("Add", ["in:0", "in:0"], ["same name"]),
             make.make_node("Exp", ["same name"], ["out:0"])]  # fmt: skip
    function = make.make_function("own", "Twice", ["in:0"], ["out:0"], inner, opsets)
    proto.functions.append(function)
    proto.opset_import.append(make.make_opsetid("own", 1))
    as_runtime(proto, {"in:0": draw(4, 3)})
    graph = convc.load(proto)
    assert graph.types.keys() >= {"in:0", "sum:0", "of then", "of else", "twice (b)", "out:0"}
    assert ir.parse(str(graph), graph.weights) == graph
    assert list(convc.load(convc.to_onnx(graph)).outputs) == ["out:0"]


def test_shapes_and_values_are_given_by_the_names_of_the_model() -> None:
    nodes = [make.make_node("Reshape", ["x:0", "shape:0"], ["y:0"])]
    proto = model_of(nodes, [info("x:0", None), info("shape:0", [2], 7)], [info("y:0", None)])
    graph = convc.load(proto, {"x:0": (6, 2)}, {"shape:0": np.array([3, -1])})
    assert str(graph.types["y:0"]) == "f32[3, 4]"
    with pytest.raises(LoadError, match=r"give it: shapes=\{'x:0': \(1, 3\)\}"):
        convc.load(proto)


def test_names_that_are_no_text_are_refused() -> None:
    """protobuf gives bytes for what is not in UTF-8."""
    for place in ("@graph", "@input", "@node", "@output"):
        proto = model_of(
            [make.make_node("Relu", ["@input"], ["@node"]),
             make.make_node("Neg", ["@node"], ["@output"])],
            [info("@input", [2])], [info("@output", [2])],
        )  # fmt: skip
        proto.graph.name = "@graph"
        broken = proto.SerializeToString().replace(place.encode(), b"\xff" * len(place))
        with pytest.raises(LoadError, match="not in UTF-8"):
            convc.load(onnx.ModelProto.FromString(broken))
