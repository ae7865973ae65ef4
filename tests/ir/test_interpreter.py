"""The interpreter: inputs are checked, results are those of the formulas."""

import tracemalloc

import numpy as np
import pytest

import ir


def two_inputs():
    b = ir.Builder("two")
    x, y = b.input("x", "f32[N, 2*H+1]"), b.input("y", "f32[N, H]")
    b.output("s", b.sum(x, 1) + b.sum(y, 1))
    return b.build()


def data(n=2, wide=7, m=2, narrow=3, dtype=np.float32):
    return {"x": np.ones((n, wide), dtype), "y": np.ones((m, narrow), dtype)}


def test_symbols_are_bound_by_the_inputs():
    assert ir.check_inputs(two_inputs(), data()) == {"N": 2, "H": 3}
    assert ir.interpret(two_inputs(), data())["s"].tolist() == [10, 10]
    assert ir.interpret(two_inputs(), data(n=0, m=0))["s"].shape == (0,)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"graph 'two' needs 'x' \(f32\[N, 2\*H\+1\]\), 'y'"),
        ({**data(), "z": np.ones(1)}, "has no input 'z'"),
        ({**data(), "x": [[1.0]]}, "must be a numpy array .* got list"),
        (data(dtype=np.float64), "element type float64, not f32; convert it with .astype"),
        ({**data(), "y": np.ones(3, np.float32)}, r"shape \(3,\), the graph asks for f32\[N, H\]"),
        (data(m=3), r"input 'y' .* has 3 on axis 0, but N is 2 elsewhere"),
        (data(wide=6), r"input 'x' has shape \(2, 6\), axis 1 must be 7"),
    ],
)
def test_bad_inputs_are_refused(inputs, message):
    with pytest.raises(ir.InputError, match=message):
        ir.interpret(two_inputs(), inputs)


def test_a_symbol_that_nothing_determines():
    b = ir.Builder()
    b.output("y", b.input("x", "f32[2*K]"))
    with pytest.raises(ir.InputError, match="K cannot be inferred; make it the whole extent"):
        ir.interpret(b.build(), {"x": np.ones(4, np.float32)})


def test_dtype_converts_every_float():
    for kind in (np.float32, np.float64):
        got = ir.values(two_inputs(), data(dtype=kind), dtype="float64")
        assert {array.dtype for array in got.values()} == {np.dtype(np.float64)}
        assert got.keys() == {"x", "y", "sum", "sum_1", "add"}


def test_labels_out_of_range_name_node_and_position():
    b = ir.Builder()
    p, labels = b.input("p", "f32[N, 3]"), b.input("labels", "i64[N]")
    b.output("f", b.softmax_cross_entropy(p, labels, name="loss"))
    for bad in (3, -1):
        inputs = {"p": np.ones((2, 3), np.float32), "labels": np.array([0, bad])}
        message = rf"node 'loss' .*label {bad} at position \(1,\); labels must be in \[0, 3\)"
        with pytest.raises(ir.InputError, match=message):
            ir.interpret(b.build(), inputs)


def test_softmax_and_its_losses_do_not_overflow():
    b = ir.Builder()
    x, labels = b.input("x", "f64[2, 3]"), b.input("labels", "i64[2]")
    b.output("one", b.softmax_cross_entropy(x, labels))
    b.output("two", b.cross_entropy(b.softmax(x), labels))
    inputs = {"x": np.array([[1e4, 0, -1e4], [1, 2, 3.0]]), "labels": np.array([0, 2])}
    got = ir.interpret(b.build(), inputs)
    expected = -np.log(np.exp(3) / np.exp([1, 2, 3]).sum()) / 2
    np.testing.assert_allclose([got["one"], got["two"]], expected)


def test_relu_and_scale_propagate_nan():
    b = ir.Builder()
    b.output("y", b.scale(b.relu(b.input("x", "f32[2]")), 2.0))
    got = ir.interpret(b.build(), {"x": np.array([np.nan, -1], np.float32)})["y"]
    assert np.isnan(got[0]) and got[1] == 0


def test_conv_and_pools_agree_with_onnxruntime():
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, rng = onnx.helper, np.random.default_rng(0)
    x = rng.integers(-4, 5, (2, 6, 9, 8)).astype(np.float32)
    w = rng.integers(-4, 5, (4, 3, 3, 2)).astype(np.float32)
    geometry = {"strides": [2, 1], "pads": [1, 0, 2, 1]}
    pool = {"kernel_shape": [3, 2], **geometry}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], dilations=[1, 2], group=2, **geometry),
        helper.make_node("MaxPool", ["x"], ["m"], **pool),
        helper.make_node("AveragePool", ["x"], ["a"], **pool),
    ]
    names = [
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in group]
        for group in (("x", "w"), ("c", "m", "a"))
    ]
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *names), opset_imports=opset, ir_version=8
    )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options)
    expected = session.run(["c", "m", "a"], {"x": x, "w": w})

    b = ir.Builder()
    vx, vw = b.input("x", "f32[N, 6, 9, 8]"), b.weight("w", w)
    pads = [(1, 2), (0, 1)]
    b.output("c", b.conv(vx, vw, stride=(2, 1), pad=pads, dilation=(1, 2), groups=2))
    b.output("m", b.max_pool(vx, (3, 2), stride=(2, 1), pad=pads))
    b.output("a", b.average_pool(vx, (3, 2), stride=(2, 1), pad=pads))
    got = ir.interpret(b.build(), {"x": x})
    for name, array in zip(("c", "m", "a"), expected, strict=True):
        np.testing.assert_allclose(got[name], array, rtol=1e-6)


def test_what_no_later_node_reads_is_dropped():
    b = ir.Builder()
    x = b.input("x", "f64[3]")
    twice = b.scale(x, 2.0, name="twice")
    kept = b.relu(twice, name="kept")
    b.output("kept", kept)
    b.output("y", b.tanh(b.scale(twice, 3.0, name="six"), name="y"))
    x = np.array([-1.0, 0.5, 2.0])
    seen = [(node.name, {name: array.tolist() for name, array in alive.items()})
            for node, alive in ir.evaluations(b.build(), {"x": x})]  # fmt: skip
    two, six, kept = (x * 2).tolist(), (x * 6).tolist(), [0.0, 1.0, 4.0]
    assert seen == [
        ("twice", {"x": x.tolist(), "twice": two}),
        ("kept", {"twice": two, "kept": kept}),
        ("six", {"twice": two, "kept": kept, "six": six}),
        ("y", {"kept": kept, "six": six, "y": np.tanh(x * 6).tolist()}),
    ]


def test_interpreting_a_deep_graph_takes_the_memory_of_a_few_values():
    b = ir.Builder()
    x = b.input("x", "f64[100, 1000]")
    for _ in range(50):
        x = b.scale(x, 1.01)
    b.output("y", x)
    graph, given = b.build(), {"x": np.ones((100, 1000))}
    tracemalloc.start()
    try:
        result = ir.interpret(graph, given)["y"]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(result, 1.01**50)
    assert most < 5 * result.nbytes


class Loose(ir.ops.Relu):
    """Results without the tuple around them."""

    def evaluate(self, *arrays):
        return super().evaluate(*arrays)[0]


class LooseTypes(ir.ops.Relu):
    def infer(self, *types):
        return types[0]


def test_results_and_types_without_a_tuple_are_refused_with_the_name_of_the_op():
    b = ir.Builder("loose")
    x = b.input("x", "f32[3]")
    with pytest.raises(ir.GraphError, match=r"relu.*: infer gives .* a tuple of types"):
        b.apply(LooseTypes(), x)
    b.output("y", b.apply(Loose(), x))
    with pytest.raises(ir.ShapeError, match=r"node 'relu'.* evaluate has to give a tuple of 1"):
        ir.interpret(b.build(), {"x": np.ones(3, np.float32)})
