"""Dead code and substitution."""

import numpy as np

import ir
from ir.ops import Relu, Scale
from ir.rewrite import dead_code, substitute


def chain():
    b = ir.Builder()
    x, w = b.input("x", "f32[N, 3]"), b.weight("w", np.ones(3, np.float32))
    b.input("unused", "f32[1]")
    kept = b.scale(b.relu(x, name="r"), 2.0, name="s")
    b.bias(kept, w, name="dead")
    b.output("y", kept)
    return b.build()


def test_dead_code_goes_and_inputs_stay():
    graph = dead_code(chain())
    assert [node.name for node in graph.nodes] == ["r", "s"]
    assert not graph.weights and list(graph.inputs) == ["x", "unused"]


def test_substitution_replaces_nodes_and_follows_renamings():
    graph = dead_code(chain())
    parts = [ir.Node(Scale(2.0), ("x",), ("first",)), ir.Node(Relu(), ("first",), ("second",))]
    changed = substitute(graph, {"r": [], "s": parts}, {"s": "r", "r": "second"})
    assert changed.outputs == {"y": "second"}
    assert [node.name for node in changed.nodes] == ["first", "second"]
    x = np.array([[-1, 0, 2]], np.float32)
    inputs = {"x": x, "unused": np.ones(1, np.float32)}
    assert np.array_equal(ir.interpret(changed, inputs)["y"], ir.interpret(graph, inputs)["y"])
