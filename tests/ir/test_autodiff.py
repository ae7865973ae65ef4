"""Gradients of whole graphs."""

import numpy as np
import pytest

import ir


def simple_cnn():
    """Conv, relu, dense, squared loss, each with one channel."""
    b = ir.Builder("simple")
    x, y = b.input("x", "f64[1, 1, 4]"), b.input("y", "f64[1, 1]")
    w1 = b.weight("w1", np.array([[[0.5, -1, 2]]]))
    w2 = b.weight("w2", np.array([[1.0], [2], [-1], [0.5]]))
    a = b.dense(b.flatten(b.relu(b.conv(x, w1, pad="same"))), w2)
    b.output("a", a)
    b.output("loss", b.squared_loss(a, y))
    return b.build()


def test_a_worked_example():
    back = ir.vjp(simple_cnn(), ["w1", "w2"])
    assert list(back.inputs) == ["x", "y", "grad_a", "grad_loss"]
    assert list(back.outputs) == ["a", "loss", "grad_w1", "grad_w2"]
    inputs = {"x": np.array([[[1, -2, 3, 0.5]]]), "y": np.ones((1, 1))}
    upstream = {"grad_a": np.zeros((1, 1)), "grad_loss": np.ones(())}
    got = ir.interpret(back, {**inputs, **upstream})
    assert got["loss"] == 272.25
    assert got["grad_w1"].ravel().tolist() == [115.5, -123.75, 198]
    assert got["grad_w2"].ravel().tolist() == [0, 280.5, 0, 33]


def test_gradients_towards_unasked_inputs_are_not_emitted():
    back = ir.vjp(simple_cnn(), ["w2"])
    assert not {"conv_input_grad", "conv_weight_grad"} & {node.op.name for node in back.nodes}


def test_uses_of_one_value_add_up_with_symbolic_shapes():
    b = ir.Builder()
    x = b.input("x", "f64[N, 3]")
    b.output("y", x * x + x)
    b.output("same", x)
    back = ir.vjp(b.build(), ["x"])
    assert str(back.types[back.outputs["grad_x"]]) == "f64[N, 3]"
    data, one = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    got = ir.interpret(back, {"x": data, "grad_y": one, "grad_same": 10 * one})
    assert np.array_equal(got["grad_x"], 2 * data + 11)


def test_a_name_without_influence_has_a_zero_gradient_even_beside_nan():
    b = ir.Builder()
    x, z = b.input("x", "f32[N, 3]"), b.input("z", "f32[N, 2]")
    w = b.weight("w", np.full(2, np.nan, np.float32))
    b.output("y", b.relu(x))
    b.bias(z, w)
    back = ir.vjp(b.build(), ["z", "w"])
    ones = np.ones((2, 3), np.float32)
    got = ir.interpret(back, {"x": ones, "z": np.full((2, 2), np.nan, np.float32), "grad_y": ones})
    assert np.array_equal(got["grad_z"], np.zeros((2, 2)))
    assert np.array_equal(got["grad_w"], np.zeros(2))


def test_integers_and_unknown_names_have_no_gradient():
    b = ir.Builder()
    p, labels = b.input("p", "f32[N, 3]"), b.input("labels", "i64[N]")
    b.output("f", b.cross_entropy(p, labels))
    b.output("labels", labels)
    graph = b.build()
    assert list(ir.vjp(graph, ["p"]).inputs) == ["p", "labels", "grad_f"]
    with pytest.raises(ir.GradientError, match=r"'labels' is i64.*integers"):
        ir.vjp(graph, ["labels"])
    with pytest.raises(ir.GradientError, match="'q' is not an input or weight"):
        ir.vjp(graph, ["q"])


def test_a_missing_derivative_names_the_node():
    example = ir.OP_BY_NAME["elementwise"].examples()[0]
    b = ir.Builder()
    values = [b.input(f"x{i}", type) for i, type in enumerate(example.inputs)]
    b.output("y", b.apply(example.op, *values, name="all_at_once"))
    with pytest.raises(ir.GradientError, match=r"gradient of node 'all_at_once'.*before fusing"):
        ir.vjp(b.build(), ["x0"])


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("loss", ["cross_entropy", "softmax_cross_entropy"])
def test_losses_have_the_second_derivatives_of_torch(loss, batch):
    """Also where the probability of another label is 0, and for a symbolic batch."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(batch)
    x = rng.uniform(0.2, 1, (batch, 5, 3))
    labels = rng.integers(0, 5, (batch, 3))
    x[:, 0][labels != 0] = 0
    g, e = np.asarray(1.5), rng.standard_normal(x.shape)

    b = ir.Builder("loss")
    b.output("f", getattr(b, loss)(b.input("x", "f64[N, 5, 3]"), b.input("labels", "i64[N, 3]")))
    once = ir.vjp(b.build())
    twice = ir.vjp(once.replace(outputs={"dx": once.outputs["grad_x"]}), ["x", "grad_f"])
    got = ir.interpret(twice, {"x": x, "labels": labels, "grad_f": g, "grad_dx": e})

    leaf, scale = (torch.tensor(array, requires_grad=True) for array in (x, g))
    logs = torch.log_softmax(leaf, 1) if loss == "softmax_cross_entropy" else torch.log(leaf)
    picked = torch.gather(logs, 1, torch.tensor(labels)[:, None])
    f = -scale * picked.sum() / max(labels.size, 1)
    (dx,) = torch.autograd.grad(f, leaf, create_graph=True)
    wanted = torch.autograd.grad((dx * torch.tensor(e)).sum(), (leaf, scale))
    for name, want in zip(("grad_x", "grad_grad_f"), wanted, strict=True):
        np.testing.assert_allclose(got[name], np.nan_to_num(want.numpy()), rtol=1e-12, atol=1e-14)


def test_a_composite_op_is_differentiated_three_times():
    """The cube of a norm: the third derivative of |x|³ at x > 0 is 6."""
    b = ir.Builder()
    x = b.input("x", "f64[N, 1, 3]")
    norm = b.lp_pool(x, 1)
    b.output("f0", norm * norm * norm)
    graph = b.build()
    for order in range(3):
        back = ir.vjp(graph, ["x"])
        graph = back.replace(outputs={f"f{order + 1}": back.outputs["grad_x"]})
    inputs = {f"grad_f{order}": np.ones((1, 1, 3)) for order in range(3)}
    got = ir.interpret(graph, {"x": np.array([[[0.5, 1, 2]]]), **inputs})["f3"]
    np.testing.assert_allclose(got, np.full((1, 1, 3), 6.0), rtol=1e-12)


def test_differentiating_twice_gives_hessian_vector_products():
    b = ir.Builder()
    x = b.input("x", "f64[1, 1, 5]")
    b.output("y", b.sum(b.mul(b.conv(x, x), b.conv(x, x))))
    once = ir.vjp(b.build(), ["x"])
    twice = ir.vjp(once.replace(outputs={"dx": once.outputs["grad_x"]}), ["x"])
    rng = np.random.default_rng(0)
    data, v = rng.standard_normal((1, 1, 5)), rng.standard_normal((1, 1, 5))
    got = ir.interpret(twice, {"x": data, "grad_y": np.ones(()), "grad_dx": v})["grad_x"]
    square = np.sum(data**2)
    np.testing.assert_allclose(got, 4 * square * v + 8 * np.sum(data * v) * data)


def test_an_unused_op_without_gradient_does_no_harm():
    example = ir.OP_BY_NAME["fused"].examples()[0]
    b = ir.Builder()
    x, w = (b.input(name, type) for name, type in zip("xw", example.inputs, strict=True))
    z = b.input("z", "f32[2]")
    b.output("y", b.apply(example.op, x, w))
    b.output("r", b.relu(z))
    ir.vjp(b.build(), ["z"])
    with pytest.raises(ir.GradientError, match="before fusing"):
        ir.vjp(b.build(), ["x"])


def test_all_float_inputs_and_weights_are_the_default():
    assert ir.vjp(simple_cnn()) == ir.vjp(simple_cnn(), ["x", "y", "w1", "w2"])
    b = ir.Builder()
    p, labels = b.input("p", "f32[N, 3]"), b.input("labels", "i64[N]")
    b.output("f", b.cross_entropy(p, labels))
    assert list(ir.vjp(b.build()).outputs) == ["f", "grad_p"]


def test_second_derivatives_have_a_prefix_of_their_own():
    b = ir.Builder("energy")
    x, w = b.input("x", "f64[2, 3]"), b.input("w", "f64[2, 3]")
    b.output("loss", b.sum(b.exp(x) * b.square(w)))
    second = ir.vjp(ir.vjp(b.build(), ["x"]), ["x", "w", "grad_loss"], prefix="second_")
    rng = np.random.default_rng(2)
    arrays = {name: rng.standard_normal((2, 3)) for name in ("x", "w", "second_grad_x")}
    rest = {"grad_loss": np.ones(()), "second_loss": np.zeros(())}
    got = ir.interpret(second, {**arrays, **rest})
    x, w, v = arrays.values()
    np.testing.assert_allclose(got["grad_x"], np.exp(x) * w**2, rtol=1e-12)
    np.testing.assert_allclose(got["second_x"], np.exp(x) * w**2 * v, rtol=1e-12)
    np.testing.assert_allclose(got["second_w"], 2 * np.exp(x) * w * v, rtol=1e-12)
    np.testing.assert_allclose(got["second_grad_loss"], np.sum(np.exp(x) * w**2 * v), rtol=1e-12)
    with pytest.raises(ir.GraphError, match="prefix = 2 must be a string"):
        ir.vjp(b.build(), prefix=2)


def test_a_wrong_name_is_refused_with_those_that_there_are():
    message = "'nosuch' is not an input or weight of 'simple'; there are x, y, w1, w2$"
    with pytest.raises(ir.GradientError, match=message):
        ir.vjp(simple_cnn(), ["nosuch"])
    with pytest.raises(ir.GradientError, match=r"'w' is not .*; did you mean 'w[12]'\?"):
        ir.vjp(simple_cnn(), ["w"])
    with pytest.raises(ir.GradientError, match="3 is not an input"):
        ir.vjp(simple_cnn(), [3])


def test_a_taken_name_comes_with_a_way_to_differentiate_twice():
    once = ir.vjp(simple_cnn(), ["w1"])
    with pytest.raises(
        ir.GraphError, match=r"'grad_a' is a value .* vjp\(graph, prefix=\"second_\""
    ):
        ir.vjp(once, ["w2"])
    b = ir.Builder()
    x = b.input("x", "f32[2]")
    b.output("grad_x", b.relu(x))
    with pytest.raises(
        ir.GraphError, match=r"'grad_x' is an output .* vjp\(graph, prefix=\"second_\""
    ):
        ir.vjp(b.build())
    with pytest.raises(ir.GradientError, match=r"write \['w1'\]"):
        ir.vjp(simple_cnn(), "w1")


@pytest.mark.parametrize(
    ("wrong", "type"),
    [(lambda b, g: b.sum(g), r"f32\[\]"), (lambda b, g: b.cast(g, "f64"), r"f64\[N, 20\]")],
)
def test_a_gradient_of_another_type_than_the_operand_is_refused(wrong, type):
    class Mistaken(ir.ops.Relu):
        def derivative(self, b, x, y, g):
            return wrong(b, g)

    b = ir.Builder()
    x = b.input("x", "f32[N, 20]")
    b.output("y", b.apply(Mistaken(), x, name="y"))
    message = rf"'y' \(relu\): .* in operand 0, 'x', is {type}; it must be f32\[N, 20\] like"
    with pytest.raises(ir.GradientError, match=message):
        ir.vjp(b.build())


@pytest.mark.parametrize(
    ("wrong", "given"),
    [
        (lambda g: (g,), "a tuple of 1"),
        (lambda g: (g, g, None), "a tuple of 3"),
        (lambda g: (), "a tuple of 0"),
        (lambda g: None, "None"),
        (lambda g: g, "a value of type Value"),
    ],
)
def test_another_number_of_gradients_than_of_operands_is_refused(wrong, given):
    class Mistaken(ir.ops.Add):
        def grad(self, b, inputs, outputs, upstream):
            return wrong(upstream[0])

    b = ir.Builder()
    x = b.input("x", "f32[N, 20]")
    b.output("y", b.apply(Mistaken(), x, b.relu(x, name="r"), name="y"))
    message = rf"^node 'y' \(add\): its grad gives {given}; .* 2 gradients, .* \('x', 'r'\)$"
    with pytest.raises(ir.GradientError, match=message):
        ir.vjp(b.build())


def test_a_gradient_that_is_no_value_is_refused():
    class Mistaken(ir.ops.Relu):
        def derivative(self, b, x, y, g):
            return 1.0

    b = ir.Builder()
    b.output("y", b.apply(Mistaken(), b.input("x", "f32[N, 20]"), name="y"))
    with pytest.raises(ir.GradientError, match=r"operand 0, 'x', is 1\.0; it must be a value"):
        ir.vjp(b.build())
