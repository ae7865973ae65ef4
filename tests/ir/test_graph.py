"""Graphs: names, order, cycles, types, binding, equality, pickling, views."""

import pickle

import numpy as np
import pytest

import ir
from ir.ops import Add, Conv, Expand, Relu

X = ir.TensorType.parse("f32[N, 4]")


def graph(*nodes, inputs=None, weights=None, outputs=None):
    inputs = {"x": X} if inputs is None else inputs
    last = nodes[-1].name if nodes else "x"
    return ir.Graph("g", inputs, weights or {}, nodes, outputs or {"y": last})


def relu(source, name):
    return ir.Node(Relu(), (source,), (name,))


def lenet():
    rng = np.random.default_rng(0)

    def weight(name, *shape):
        return b.weight(name, rng.standard_normal(shape).astype(np.float32))

    b = ir.Builder("lenet")
    x, labels = b.input("x", "f32[N, 1, 12, 12]"), b.input("labels", "i64[N]")
    h = b.conv(x, weight("c1.weight", 4, 1, 3, 3), pad="same")
    h = b.max_pool(b.relu(b.bias(h, weight("c1.bias", 4))), 2)
    h = b.flatten(b.relu(b.conv(h, weight("c2.weight", 5, 4, 3, 3), stride=2)))
    logits = b.dense(h, weight("fc.weight", 20, 3), weight("fc.bias", 3), name="logits")
    b.output("logits", logits)
    b.output("loss", b.softmax_cross_entropy(logits, labels))
    return b.build()


def test_a_cycle_is_named():
    nodes = (relu("c", "a"), relu("a", "b"), relu("b", "c"), relu("c", "d"))
    with pytest.raises(ir.GraphError, match=r"cycle: b -> c -> a -> b|cycle: .* -> "):
        graph(*nodes)


def test_nodes_out_of_order_are_not_called_a_cycle():
    with pytest.raises(ir.GraphError, match=r"node 'b' \(relu\) reads 'a' before") as caught:
        graph(relu("a", "b"), relu("x", "a"))
    assert "cycle" not in str(caught.value)


def test_an_unknown_value_gets_a_suggestion():
    with pytest.raises(ir.GraphError, match="did you mean 'conv_1'"):
        graph(relu("x", "conv_1"), relu("conv1", "y"))
    with pytest.raises(ir.GraphError, match="output 'y' is 'z'"):
        graph(outputs={"y": "z"})


def test_names_are_unique_texts():
    with pytest.raises(ir.GraphError, match="'x' is defined twice"):
        graph(relu("x", "x"))
    for name in ("", 3, None, b"y", "half \ud800"):
        with pytest.raises(ir.GraphError, match="is not a name of a value"):
            graph(relu("x", name))
    for name in ("block/0.relu-α", "y:0", "a b", 'a"', "a\n", "%", "\0"):
        assert graph(relu("x", name), outputs={name: name}).outputs == {name: name}


def test_op_errors_name_the_node():
    conv = ir.Node(Conv((1,), ((0, 0),), (1,), 1), ("x", "x"), ("y",))
    with pytest.raises(ir.ShapeError, match=r"node 'y' \(conv\): "):
        graph(conv)
    with pytest.raises(ir.GraphError, match=r"node 'y' \(add\).*takes 2 operands \(a, b\), got 1"):
        graph(ir.Node(Add(), ("x",), ("y",)))
    with pytest.raises(ir.GraphError, match="names 2 outputs, the op has 1"):
        graph(ir.Node(Relu(), ("x",), ("y", "z")))


def test_types_are_inferred_and_bound():
    g = lenet()
    assert str(g.types["logits"]) == "f32[N, 3]"
    assert g.symbols == {"N"}
    assert str(g.bind({"N": 7}).types["logits"]) == "f32[7, 3]"
    assert g.bind({"N": 7}).symbols == frozenset()
    assert g.with_dtype("f64").types["logits"].dtype is ir.DType.FLOAT64
    assert g.with_dtype("f64").types["labels"].dtype is ir.DType.INT64


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"M": 3}, r"graph 'lenet' has no symbolic extent 'M'.* \(there are: N\)"),
        ({"N": 3, "n": 3}, "no symbolic extent 'n'"),
        ({3: 3}, "no symbolic extent 3"),
        ({"N": -1}, "N=-1; give an int of 0 or more"),
        ({"N": 1.0}, "N=1.0; give an int"),
        ({"N": True}, "N=True; give an int"),
        ({"N": "3"}, "N='3'; give an int"),
        ({"N": None}, "N=None; give an int"),
    ],
)
def test_only_extents_are_bound_to_the_symbols_there_are(sizes, message):
    with pytest.raises(ir.ShapeError, match=message):
        lenet().bind(sizes)
    with pytest.raises(ir.ShapeError, match=r"there are: none"):
        lenet().bind({"N": 3}).bind({"N": 3})


def test_a_symbol_is_bound_to_any_integer_and_to_extents():
    assert str(lenet().bind({"N": np.int32(7)}).types["logits"]) == "f32[7, 3]"
    assert type(lenet().bind({"N": np.int64(7)}).types["logits"].shape[0]) is int
    assert lenet().bind({"N": ir.symbol("K") * 2}).symbols == {"K"}
    assert lenet().bind({"N": 0}).types["logits"].size == 0


def test_symbols_come_from_inputs_and_sizes_have_a_limit():
    with pytest.raises(ir.ShapeError, match="uses M, which no input defines"):
        graph(ir.Node(Expand((ir.symbol("M"), ir.symbol("N"), 4)), ("x",), ("y",)))
    with pytest.raises(ir.ShapeError, match="larger than"):
        graph(inputs={"x": ir.TensorType.parse("f32[100000000, 100000000]")})


def test_producers_and_consumers():
    g = graph(relu("x", "a"), ir.Node(Add(), ("a", "a"), ("b",)))
    assert g.producer("a").op == Relu() and g.producer("x") is None
    assert [node.name for node in g.consumers("a")] == ["b"] and g.consumers("b") == ()


def test_weights_are_copied_once_and_read_only():
    array = np.ones((2, 4), np.float32)
    g = graph(relu("w", "y"), weights={"w": array})
    array[:] = 5
    assert g.weights["w"].max() == 1
    assert g.replace(name="h").weights["w"] is g.weights["w"]
    with pytest.raises(ValueError, match="read-only"):
        g.weights["w"][0] = 1
    with pytest.raises(TypeError):
        g.weights["w"] = array


def test_weights_as_inputs():
    g = lenet().weights_as_inputs(["fc.bias"])
    assert list(g.inputs) == ["x", "labels", "fc.bias"] and "fc.bias" not in g.weights
    assert list(lenet().weights_as_inputs().weights) == []
    with pytest.raises(ir.GraphError, match=r"did you mean 'fc.bias'"):
        g = lenet().weights_as_inputs(["fc.bais"])


def test_equality_is_structural_and_sees_the_weights():
    assert lenet() == lenet() and hash(lenet()) == hash(lenet())
    other = {**lenet().weights, "fc.bias": np.zeros(3, np.float32)}
    assert lenet() != lenet().replace(weights=other)
    assert lenet() != lenet().replace(name="other")
    assert pickle.loads(pickle.dumps(lenet())) == lenet()


def test_cost_needs_static_shapes():
    with pytest.raises(ir.ShapeError, match="bind the symbols"):
        lenet().cost()
    once, twice = (lenet().bind({"N": n}).cost() for n in (1, 2))
    assert twice.flops == 2 * once.flops and once.bytes < twice.bytes < 2 * once.bytes


def test_networkx_view():
    networkx = pytest.importorskip("networkx")
    view = lenet().to_networkx()
    assert networkx.is_directed_acyclic_graph(view)
    assert view.nodes["conv"]["op"] == lenet().producer("conv").op
    assert view.nodes["x"]["kind"] == "input" and view.nodes["fc.bias"]["kind"] == "weight"
    assert {d["operand"] for *_, d in view.in_edges("conv", data=True)} == {"x", "w"}


def test_networkx_is_not_imported_before_it_is_needed():
    import subprocess
    import sys

    code = "import sys, ir; sys.exit('networkx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_repr_is_one_short_line_and_str_the_text():
    graph = lenet()
    said = "<Graph 'lenet': 2 inputs, 5 weights, 10 nodes, outputs: logits, loss>"
    assert repr(graph) == said
    assert str(graph) == ir.to_text(graph)
    assert len(repr(graph.replace(outputs={f"y{i}": "x" for i in range(99)}))) < 150
