"""The builder: names, defaults, operators, errors that say where."""

import numpy as np
import pytest

import ir
from ir.ops import AveragePool, Conv, Relu, Reshape


def start(type="f32[N, 3, 8, 9]"):
    b = ir.Builder()
    return b, b.input("x", type)


def test_names_derive_from_the_op():
    b, x = start()
    assert [b.relu(x).name for _ in range(3)] == ["relu", "relu_1", "relu_2"]
    assert b.relu(x, name="act").name == "act"
    with pytest.raises(ir.GraphError, match="'act' is defined twice"):
        b.relu(x, name="act")


def test_operators_and_the_named_methods():
    b, x = start("f32[2, 3]")
    y = (x + x) * x - 0.5 * x
    b.output("y", b.add(y, b.mul(x, b.sub(x, x))))
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    got = ir.interpret(b.build(), {"x": data})["y"]
    assert np.array_equal(got, 2 * data * data - data / 2)


def test_geometry_defaults():
    b, x = start()
    w = b.weight("w", np.zeros((4, 3, 3, 2), np.float32))
    b.conv(x, w, pad="full", dilation=2, stride=(1, 2))
    b.average_pool(x, 2)
    ops = [node.op for node in b._nodes]
    assert ops[0] == Conv((1, 2), ((4, 4), (2, 2)), (2, 2), 1)
    assert ops[1] == AveragePool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), "drop", "real")


def test_transposed_and_weight_gradient_methods():
    b, x = start()
    w = b.weight("w", np.zeros((4, 3, 3, 3), np.float32))
    g = b.conv(x, w, stride=2, pad=1)
    assert b.conv_transpose(g, w, x.shape[2:], stride=2, pad=1).shape == x.shape
    assert b.conv_weight_grad(g, x, (3, 3), stride=2, pad=1).shape == w.shape


def test_images_come_before_kernels_in_transposed_convolutions_too():
    b, x = start("f32[N, 3, 8, 8]")
    w = b.weight("w", np.zeros((3, 4, 3, 3), np.float32))
    assert str(b.conv_transpose(x, w).type) == "f32[N, 4, 10, 10]"
    call = r"conv_transpose\(%w: f32\[3, 4, 3, 3\], %x: f32\[N, 3, 8, 8\]\): "
    with pytest.raises(ir.ShapeError, match=f"^{call}x has 4 channels, w is for N; x .* first"):
        b.conv_transpose(w, x)
    kernels = b.input("kernels", "f32[3, 4, K, 3]")
    message = r"^conv_transpose\(%x: .*, %kernels: .*\): a kernel of \[K, 3\] cells; give kernels"
    with pytest.raises(ir.ShapeError, match=message):
        b.conv_transpose(x, kernels)


CALLS = {
    "conv": lambda b, x, w, g: b.conv(x, w, **g),
    "depthwise_conv": lambda b, x, w, g: b.depthwise_conv(x, b.slice(w, {1: (0, 1)}), **g),
    "conv_transpose": lambda b, x, w, g: b.conv_transpose(x, b.slice(w, {0: (0, 3)}), **g),
    "conv_weight_grad": lambda b, x, w, g: b.conv_weight_grad(x, x, (3, 3), **g),
    "max_pool": lambda b, x, w, g: b.max_pool(x, 2, **g),
    "distance_pool": lambda b, x, w, g: b.distance_pool(x, (1, 2, 3), **g),
    "adaptive_pool": lambda b, x, w, g: b.adaptive_pool(x, (1, 2, 3)),
    "downsample": lambda b, x, w, g: b.downsample(x, (1, 2, 3)),
    "expand_blocks": lambda b, x, w, g: b.expand_blocks(x, (1, 2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("op", CALLS)
def test_settings_that_do_not_fit_are_told_with_the_op_and_its_operands(op):
    b, x = start()
    w = b.weight("w", np.zeros((4, 3, 3, 3), np.float32))
    name = "conv" if op == "depthwise_conv" else op
    with pytest.raises(ir.Error, match=rf"^{name}\(%x: f32\[N, 3, 8, 9\].*3 entries for 2 axes"):
        CALLS[op](b, x, w, {"stride": (1, 2, 3)})
    if op in ("conv", "conv_transpose", "max_pool"):
        with pytest.raises(
            ir.Error, match=rf'^{name}\(%x: .*pad = "sam" is not a mode; use "valid"'
        ):
            CALLS[op](b, x, w, {"pad": "sam"})


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_sums_and_products_take_numbers(dtype):
    b = ir.Builder("numbers")
    x = b.input("x", f"{dtype}[2, 3]")
    made = {"a": b.add(x, 3), "b": b.add(3.0, x), "c": b.sub(x, 2), "d": b.sub(2, x),
            "e": b.mul(x, np.float32(2)), "f": b.mul(2.0, x, name="twice")}  # fmt: skip
    for name, value in made.items():
        b.output(name, value)
    array = np.arange(6).reshape(2, 3).astype(x.dtype.numpy)
    got = ir.interpret(b.build(), {"x": array})
    want = (array + 3, array + 3, array - 2, 2 - array, array * 2, array * 2)
    for name, expected in zip(made, want, strict=True):
        assert got[name].dtype == array.dtype and np.array_equal(got[name], expected)
    assert made["f"].name == "twice"
    for wrong in ("1", None, [1.0], np.ones(3)):
        with pytest.raises(ir.GraphError, match="is not a value of builder"):
            b.add(x, wrong)
        with pytest.raises(ir.GraphError, match="is not a value of builder"):
            b.mul(wrong, x)
    with pytest.raises(ir.GraphError, match="is not a value of builder"):
        b.add(1.0, 2.0)


def test_extents_are_no_strings():
    b, x = start()
    with pytest.raises(ir.AttributeValueError, match=r'ir.symbol\("N"\) or x.shape\[0\], .*-1'):
        b.reshape(x, ("N", 216))


@pytest.mark.parametrize("name", ["", "\udfff", 3, None])
def test_the_name_of_a_graph_is_checked_at_once(name):
    with pytest.raises(ir.GraphError, match="is not a name of a graph; "):
        ir.Builder(name)
    with pytest.raises(ir.GraphError, match="is not a name of a graph; "):
        ir.Graph(name, {}, {}, (), {})


def test_a_builder_goes_on_from_graphs_only():
    for wrong in ("x.ir", None, ir.Builder("b")):
        with pytest.raises(ir.GraphError, match=r"Builder.of takes a graph, not"):
            ir.Builder.of(wrong)


def test_reshape_works_out_one_extent():
    b, x = start()
    assert b.reshape(x, (-1, 8, 9)).shape == (3 * ir.symbol("N"), 8, 9)
    assert str(b.flatten(x).type) == "f32[N, 216]"
    assert b.build().nodes[0].op == Reshape((3 * ir.symbol("N"), 8, 9))
    for to in ((-1, -1), (-1, 7), (-1, 0)):
        with pytest.raises(ir.ShapeError, match="undetermined"):
            b.reshape(x, to)


def test_axes_may_count_from_the_end():
    b, x = start()
    assert b.sum(x, -1).shape == x.shape[:3] and b.sum(x).shape == ()
    assert b.softmax(x, -1).type == x.type


def test_errors_name_the_op_and_its_operands():
    b, x = start()
    w = b.weight("w", np.zeros((4, 2, 3, 3), np.float32))
    with pytest.raises(ir.ShapeError, match=r"conv\(%x: f32\[N, 3, 8, 9\], %w: .*reads 2 channels"):
        b.conv(x, w)
    with pytest.raises(ir.AttributeValueError, match="not a mode"):
        b.conv(x, w, pad="SAME")
    with pytest.raises(ir.AttributeValueError, match="2 axes"):
        b.conv(x, w, stride=(1, 1, 1))
    with pytest.raises(ir.AttributeValueError, match="pair"):
        b.conv(x, w, pad=[(1,), (1,)])
    with pytest.raises(ir.GraphError, match="not a value of builder"):
        b.relu(start()[1])


def test_bad_types_and_weights_are_refused():
    b = ir.Builder()
    with pytest.raises(ir.ShapeError, match="cannot read type"):
        b.input("x", "f32(3)")
    with pytest.raises(ir.DTypeError, match="not supported"):
        b.input("x", "f16[3]")
    with pytest.raises(ir.DTypeError, match="int32"):
        b.weight("w", np.zeros(3, np.int32))


def test_a_builder_can_continue_a_graph():
    b, x = start("f32[2, 3]")
    b.output("y", b.relu(x))
    more = ir.Builder.of(b.build())
    more.output("z", more.relu(more.value("relu")))
    assert list(more.build().outputs) == ["y", "z"]
    with pytest.raises(ir.GraphError, match="did you mean 'relu'"):
        more.value("rleu")


def test_apply_takes_an_op_first():
    b, x = start()
    assert b.apply(Relu(), x, name="act").name == "act"
    with pytest.raises(ir.GraphError, match=r"for a sum, write b.add\(x, y\)"):
        b.apply(x, x)
    with pytest.raises(ir.GraphError, match=r"make one: Relu\("):
        b.apply(Relu, x)


ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)
GEOMETRY = {
    "half a cell of padding": (lambda b, x, w: b.conv(x, w, pad=1.5), "pad = 1.5.*whole number"),
    "no padding": (lambda b, x, w: b.conv(x, w, pad=None), 'pad = None.*"same"'),
    "half a pair": (lambda b, x, w: b.conv(x, w, pad=[(1, 0.5), 0]), r"pad = \(1, 0.5\) must be"),
    "half a stride": (lambda b, x, w: b.conv(x, w, stride=1.5), "stride = 1.5: give a whole"),
    "no stride": (lambda b, x, w: b.conv(x, w, stride=None), "stride = None"),
    "a stride of truth": (lambda b, x, w: b.conv(x, w, stride=True), "stride = True"),
    "an empty window": (lambda b, x, w: b.max_pool(x, 0), "window = 0 must be at least 1"),
    "no window": (lambda b, x, w: b.average_pool(x, None), "window = None"),
    "an extent": (lambda b, x, w: b.reshape(x, 5), "to must be a sequence, not 5"),
    "an axis": (lambda b, x, w: b.transpose(x, 1), "perm must be a sequence"),
    "half an axis": (lambda b, x, w: b.sum(x, 0.5), "axes must be a sequence"),
    "an array of factors": (lambda b, x, w: ARRAY * x, r"not a numpy array float32\[3, 4\]"),
}


@pytest.mark.parametrize("case", GEOMETRY)
def test_attributes_of_a_wrong_kind_are_refused(case):
    make, message = GEOMETRY[case]
    b, x = start()
    with pytest.raises(ir.AttributeValueError, match=message):
        make(b, x, b.weight("w", np.zeros((4, 3, 3, 3), np.float32)))


def test_numpy_integers_are_whole_numbers():
    b, x = start()
    w = b.weight("w", np.zeros((4, 3, 3, 3), np.float32))
    b.conv(x, w, pad=np.int64(1), stride=np.array([1, 2]))
    assert b.build().nodes[0].op == Conv((1, 2), ((1, 1), (1, 1)), (1, 1), 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda b, x: b.relu(ARRAY),
        lambda b, x: b.max_pool(ARRAY, 2),
        lambda b, x: b.conv(x, ARRAY),
        lambda b, x: b.sum(ARRAY),
        lambda b, x: b.flatten(ARRAY),
        lambda b, x: b.output("y", ARRAY),
        lambda b, x: x + ARRAY,
    ],
)
def test_arrays_are_no_values_and_are_not_printed(make):
    with pytest.raises(ir.GraphError, match=r"^a numpy array float32\[3, 4\] is not a value of"):
        make(*start())


def test_spatial_ops_say_what_shape_they_want():
    b, flat = start("f32[2, 3]")
    x, w = b.input("x4", "f32[2, 3, 8, 8]"), b.weight("w", np.zeros((4, 3, 3, 3), np.float32))
    with pytest.raises(ir.ShapeError, match=r"max_pool: %x is .* x must be \[N, C, \*S\]"):
        b.max_pool(flat, 2)
    with pytest.raises(ir.ShapeError, match=r"conv: %x is .* x must be \[N, C, \*S\]"):
        b.conv(flat, w)
    with pytest.raises(ir.ShapeError, match=r"conv: %x is .* w must be \[K, C/groups, \*k\]"):
        b.conv(x, flat)
    with pytest.raises(ir.ShapeError, match=r"x must be \[N, C, \*S\]"):
        b.conv(b.input("x3", "f32[2, 3, 8]"), w)


def test_the_name_of_an_op_stands_once_in_an_error():
    b, x = start()
    with pytest.raises(ir.ShapeError) as caught:
        b.conv(x, b.weight("w", np.zeros((4, 2, 3, 3), np.float32)))
    assert str(caught.value).count("conv") == 1


def test_types_and_arrays_of_a_wrong_kind_are_refused():
    b = ir.Builder()
    with pytest.raises(ir.GraphError, match=r"input 'x': 5 is not a type; write it like"):
        b.input("x", 5)
    with pytest.raises(ir.DTypeError, match=r"weight 'w': give a numpy array, not .* list"):
        b.weight("w", [1, 2])
    with pytest.raises(ir.DTypeError, match="weight 'w': give a numpy array"):
        ir.Graph("g", {}, {"w": [1, 2]}, (), {})
