"""Elementwise ops beside PyTorch: values, gradients, second derivatives; corners and mistakes."""

import math

import numpy as np
import pytest

import ir
from ir.ops import Cast, Clip, Elementwise, Elu, Gelu, Mul, Relu, Scale, Shift, Uniform, Where

UNARY = {
    "exp": lambda b, x: b.exp(x),
    "log": lambda b, x: b.log(b.shift(b.square(x), 0.1)),
    "sqrt": lambda b, x: b.sqrt(b.shift(b.square(x), 0.1)),
    "square": lambda b, x: b.square(x),
    "reciprocal": lambda b, x: 1 / (b.square(x) + 0.5),
    "abs": lambda b, x: b.abs(x),
    "tanh": lambda b, x: b.tanh(x),
    "logistic": lambda b, x: b.logistic(x),
    "softplus": lambda b, x: b.softplus(x),
    "erf": lambda b, x: b.erf(x),
    "gelu": lambda b, x: b.gelu(x),
    "gelu tanh": lambda b, x: b.gelu(x, "tanh"),
    "silu": lambda b, x: b.silu(x),
    "elu": lambda b, x: b.elu(x, 0.7),
    "leaky relu": lambda b, x: b.leaky_relu(x, 0.2),
    "clip": lambda b, x: b.clip(x, -0.5, 0.8),
    "numbers": lambda b, x: (2 - x) * 3 / 4 - x * 0.5 + 1 - (-x),
}
TORCH = {
    "exp": lambda t, x: t.exp(x),
    "log": lambda t, x: t.log(x**2 + 0.1),
    "sqrt": lambda t, x: t.sqrt(x**2 + 0.1),
    "square": lambda t, x: x**2,
    "reciprocal": lambda t, x: 1 / (x**2 + 0.5),
    "abs": lambda t, x: t.abs(x),
    "tanh": lambda t, x: t.tanh(x),
    "logistic": lambda t, x: t.sigmoid(x),
    "softplus": lambda t, x: t.nn.functional.softplus(x, threshold=50),
    "erf": lambda t, x: t.erf(x),
    "gelu": lambda t, x: t.nn.functional.gelu(x),
    "gelu tanh": lambda t, x: t.nn.functional.gelu(x, approximate="tanh"),
    "silu": lambda t, x: t.nn.functional.silu(x),
    "elu": lambda t, x: t.nn.functional.elu(x, 0.7),
    "leaky relu": lambda t, x: t.nn.functional.leaky_relu(x, 0.2),
    "clip": lambda t, x: t.clamp(x, -0.5, 0.8),
    "numbers": lambda t, x: (2 - x) * 3 / 4 - x * 0.5 + 1 - (-x),
}


def graph_of(make, *types):
    b = ir.Builder("one")
    b.output("y", make(b, *(b.input(f"x{i}", type) for i, type in enumerate(types))))
    return b.build()


def derived(graph, *wrt):
    """The graph whose only outputs are the gradients of the sum of its only one."""
    ((public, value),) = graph.outputs.items()
    back = ir.vjp(graph, wrt)
    upstream = {f"grad_{public}": np.ones(graph.types[value].static_shape)}
    inputs = {name: type for name, type in back.inputs.items() if name not in upstream}
    outputs = {f"d{name}": back.outputs[f"grad_{name}"] for name in wrt}
    return back.replace(inputs=inputs, weights={**back.weights, **upstream}, outputs=outputs)


@pytest.mark.parametrize("name", UNARY)
def test_values_and_two_derivatives_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((3, 7)) * 2
    first = graph_of(UNARY[name], "f64[3, 7]")
    second = derived(derived(first, "x0"), "x0")
    leaf = torch.tensor(x, requires_grad=True)
    y = TORCH[name](torch, leaf)
    (dy,) = torch.autograd.grad(y.sum(), leaf, create_graph=True)
    ddy = torch.zeros_like(leaf)
    if dy.requires_grad:
        (found,) = torch.autograd.grad(dy.sum(), leaf, allow_unused=True)
        ddy = ddy if found is None else found
    wanted = (y.detach(), dy.detach(), ddy)
    for graph, want in zip((first, derived(first, "x0"), second), wanted, strict=True):
        (got,) = ir.interpret(graph, {"x0": x}).values()
        np.testing.assert_allclose(got, want.numpy(force=True), rtol=1e-9, atol=1e-11)


BINARY = {
    "div": (lambda b, p, q: p / q, lambda t, p, q: p / q),
    "power": (lambda b, p, q: b.power(p, q), lambda t, p, q: t.pow(p, q)),
    "maximum": (lambda b, p, q: b.maximum(p, q), lambda t, p, q: t.maximum(p, q)),
    "minimum": (lambda b, p, q: b.minimum(p, q), lambda t, p, q: t.minimum(p, q)),
    "where": (lambda b, p, q: b.where(b.greater(p, q), p * q, q),
              lambda t, p, q: t.where(p > q, p * q, q)),
}  # fmt: skip
SHAPES = [((3, 1, 5), (4, 5)), ((7,), (2, 7)), ((1, 1), (3, 1)), ((), (2, 3)), ((2, 3), (2, 3))]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_broadcast_values_and_gradients_are_those_of_torch(name, shapes):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    arrays = [rng.uniform(0.2, 2, shape) for shape in shapes]
    graph = graph_of(BINARY[name][0], *(f"f64[{', '.join(map(str, s))}]" for s in shapes))
    inputs = {f"x{i}": np.asarray(array) for i, array in enumerate(arrays)}
    leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
    y = BINARY[name][1](torch, *leaves)
    y.sum().backward()
    np.testing.assert_allclose(ir.interpret(graph, inputs)["y"], y.detach().numpy(), rtol=1e-12)
    got = ir.interpret(derived(graph, "x0", "x1"), inputs)
    for leaf, slope in zip(leaves, got.values(), strict=True):
        np.testing.assert_allclose(slope, leaf.grad.numpy(), rtol=1e-10)


def gradient(make, *arrays):
    """The gradients of Σ y."""
    graph = graph_of(make, *(f"f64[{', '.join(map(str, a.shape))}]" for a in arrays))
    names = [f"x{i}" for i in range(len(arrays))]
    inputs = dict(zip(names, arrays, strict=True))
    return [slope.tolist() for slope in ir.interpret(derived(graph, *names), inputs).values()]


def test_derivatives_at_the_corners():
    corners = np.array([-1.0, 0.0, 1.0])
    assert gradient(lambda b, x: b.clip(x, -1, 1), corners) == [[1, 1, 1]]
    assert gradient(lambda b, x: b.abs(x), corners) == [[-1, 0, 1]]
    assert gradient(lambda b, x: b.leaky_relu(x, 0.5), corners) == [[0.5, 0.5, 1]]
    assert gradient(lambda b, x: b.elu(x, 2.0), corners[1:]) == [[2, 1]]
    assert gradient(lambda b, x: b.sqrt(x), np.array([0.0, 4.0])) == [[0, 0.25]]
    assert gradient(lambda b, x: b.step(x) + b.sign(x) + b.round(x), corners) == [[0, 0, 0]]


def test_ties_give_the_gradient_to_the_first_operand():
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    assert gradient(lambda b, p, q: b.maximum(p, q), a, b) == [[0, 1, 1], [1, 0, 0]]
    assert gradient(lambda b, p, q: b.minimum(p, q), a, b) == [[1, 1, 0], [0, 0, 1]]


def test_a_norm_has_a_gradient_at_zero_and_so_has_its_gradient():
    """0 at the origin, not NaN, however often it is differentiated."""

    def norm(b, x):
        return b.sqrt(b.sum(b.square(x), (1,)))

    x = np.array([[3.0, 4.0], [0.0, 0.0]])
    first = derived(graph_of(norm, "f64[2, 2]"), "x0")
    np.testing.assert_allclose(ir.interpret(first, {"x0": x})["dx0"], [[0.6, 0.8], [0, 0]])
    assert np.isfinite(ir.interpret(derived(first, "x0"), {"x0": x})["dx0"]).all()


def test_powers_of_zero_and_to_zero_have_gradients():
    base, exponent = np.array([0.0, 0.0, 2.0, -3.0]), np.array([0.0, 2.0, 0.0, 2.0])
    da, db = gradient(lambda b, p, q: b.power(p, q), base, exponent)
    assert da == [0, 0, 0, -6]
    assert db[:3] == [0, 0, math.log(2)] and math.isnan(db[3])


def test_nan_and_infinity_go_where_they_should():
    x = np.array([np.nan, np.inf, -np.inf])
    nan = np.nan
    wanted = {
        "sign": [nan, 1, -1], "step": [nan, 1, 0], "tanh": [nan, 1, -1], "logistic": [nan, 1, 0],
        "softplus": [nan, np.inf, 0], "erf": [nan, 1, -1], "elu": [nan, np.inf, -1],
        "floor": [nan, np.inf, -np.inf],
    }  # fmt: skip
    for name, want in wanted.items():
        graph = graph_of(lambda b, x, name=name: getattr(b, name)(x), "f64[3]")
        np.testing.assert_array_equal(ir.interpret(graph, {"x0": x})["y"], want, err_msg=name)
    for op in (ir.ops.Maximum(), ir.ops.Minimum()):
        assert np.isnan(op.evaluate(x[:1], np.ones(1))).all()
        assert np.isnan(op.evaluate(np.ones(1), x[:1])).all()
    (chosen,) = Where().evaluate(np.array([nan, 0.0]), np.ones(2), np.zeros(2))
    assert chosen.tolist() == [1, 0]
    assert ir.ops.Equal().evaluate(x, x)[0].tolist() == [0, 1, 1]


def test_rounding_is_to_even():
    x = np.array([-1.5, -0.5, 0.5, 1.5, 2.5])
    assert ir.ops.Round().evaluate(x)[0].tolist() == [-2, 0, 0, 2, 2]


# ---------------------------------------------------------------- element types, random numbers


def test_casts_round_towards_zero_and_saturate():
    x = np.array([-1.9, 1.9, np.nan, np.inf, -np.inf, 1e300, 2.0**62])
    ends = np.iinfo(np.int64)
    (got,) = Cast("i64").evaluate(x)
    assert got.tolist() == [-1, 1, 0, ends.max, ends.min, ends.max, 2**62]
    assert Cast("f32").evaluate(np.array([0.1]))[0].dtype == np.float32


def test_gradients_pass_casts_between_floats_only():
    b = ir.Builder("casts")
    x = b.input("x", "f32[3]")
    b.output("y", b.cast(b.square(b.cast(x, "f64")), "f32"))
    back = ir.vjp(b.build())
    inputs = {"x": np.arange(3, dtype=np.float32), "grad_y": np.ones(3, np.float32)}
    got = ir.interpret(back, inputs)["grad_x"]
    assert got.dtype == np.float32 and got.tolist() == [0, 2, 4]
    (stopped,) = gradient(lambda b, x: b.cast(b.cast(x, "i64"), "f64") * x, np.array([1.5, 2.5]))
    assert stopped == [1, 2]


def test_a_graph_of_another_float_type_casts_to_that():
    graph = graph_of(lambda b, x: b.cast(b.cast(x, "f64"), "i64"), "f32[3]")
    wide = graph.with_dtype("f64")
    assert [node.op for node in wide.nodes] == [Cast("f64"), Cast("i64")]
    drop = graph_of(lambda b, x, s: b.dropout(x, 0.5, s), "f32[9]", "i64[]")
    ir.interpret(drop, {"x0": np.ones(9, np.float32), "x1": np.asarray(1)}, "float64")


def test_random_numbers_are_the_top_bits_of_splitmix64():
    """The published outputs for the seed 1234567."""
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
               16408922859458223821]  # fmt: skip
    want = [(number >> 40) / 2**24 for number in outputs]
    seed = np.asarray(1234567)
    assert Uniform((5,), "f64").evaluate(seed)[0].tolist() == want
    narrow, wide = (Uniform((30, 40), t).evaluate(seed)[0] for t in ("f32", "f64"))
    np.testing.assert_array_equal(narrow, wide)
    assert narrow.reshape(-1)[:5].tolist() == want and (wide >= 0).all() and (wide < 1).all()


def test_random_numbers_are_uniform_and_differ_with_the_seed():
    stats = pytest.importorskip("scipy.stats")
    samples = [Uniform((20000,), "f64").evaluate(np.asarray(seed))[0] for seed in (0, 1, -1)]
    for sample in samples:
        assert stats.kstest(sample, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(samples) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("rate", [0, 0.25, 0.9])
def test_dropout_keeps_the_mean_and_its_gradient_has_the_same_mask(rate):
    b = ir.Builder("drop")
    x, seed = b.input("x", "f64[100, 200]"), b.input("seed", "i64[]")
    b.output("y", b.dropout(x, rate, seed))
    inputs = {"x": np.ones((100, 200)), "seed": np.asarray(7)}
    y = ir.interpret(b.build(), inputs)["y"]
    kept = y != 0
    assert abs(kept.mean() - (1 - rate)) < 0.01
    np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
    back = ir.interpret(ir.vjp(b.build(), ["x"]), {**inputs, "grad_y": np.ones((100, 200))})
    np.testing.assert_array_equal(back["grad_x"], y)


def test_numbers_are_no_weights_that_training_would_change():
    b = ir.Builder("numbers")
    x, seed = b.input("x", "f64[3]"), b.input("seed", "i64[]")
    y = b.dropout(b.power(b.maximum(x, 0.5), 1.5), 0.5, seed)
    b.output("y", b.where(b.greater(x, 0.0), 1 / y, 2.0 - y))
    back = ir.vjp(b.build())
    assert not b.build().weights and not back.weights
    assert str(b.constant(2.5, "f32").type) == "f32[]"
    assert ir.parse(str(back)) == back


# ---------------------------------------------------------------- losses


def test_log_softmax_and_losses_are_those_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((5, 3)) * 100, rng.choice([-1.0, 1.0], (5, 3))
    wanted = {
        "log_softmax": torch.log_softmax(torch.tensor(x), 1),
        "hinge_loss": torch.clamp(1 - torch.tensor(y * x), min=0).sum(),
        "logistic_loss": torch.nn.functional.softplus(torch.tensor(-y * x), threshold=1e9).sum(),
    }
    b = ir.Builder("losses")
    scores, classes = b.input("x", "f64[5, 3]"), b.input("y", "f64[5, 3]")
    b.output("log_softmax", b.log_softmax(scores, -1))
    b.output("hinge_loss", b.hinge_loss(scores, classes))
    b.output("logistic_loss", b.logistic_loss(scores, classes))
    got = ir.interpret(b.build(), {"x": x, "y": y})
    for name, want in wanted.items():
        np.testing.assert_allclose(got[name], want.numpy(), rtol=1e-12, err_msg=name)


# ---------------------------------------------------------------- mistakes


def test_bad_attributes_are_refused_with_the_reason():
    cases = [
        (lambda: Shift("1"), "shift: term must be a number, not '1'"),
        (lambda: Scale(None), "scale: factor must be a number, not None"),
        (lambda: Clip(1, 0), "clip: low = 1.0 and high = 0.0 must be in order"),
        (lambda: Clip(math.nan, 0), "clip: low = nan"),
        (lambda: Gelu("fast"), 'gelu: approximate = \'fast\' must be "none" or "tanh"'),
        (lambda: Elu(True), "elu: alpha must be a number"),
        (lambda: Cast("f16"), "cast: dtype = 'f16' must be one of f32, f64, i64"),
        (lambda: Uniform((3,), "i64"), "uniform: dtype = 'i64' must be one of f32, f64"),
        (lambda: Uniform((-1,)), "uniform: shape = -1 must be at least 0"),
        (lambda: Elementwise(1, (), (0,)), "elementwise: steps must be"),
        (lambda: Elementwise(1, ((ir.ops.Sum(()), (0,)),), (1,)), "sum is not an elementwise op"),
        (lambda: Elementwise(1, ((Mul(), (0,)),), (1,)), "step 0 has 1; mul takes 2 operands"),
        (lambda: Elementwise(1, ((Relu(), (1,)),), (1,)), "step 0 refers to 1; there are 0 to 0"),
        (lambda: Elementwise(1, ((Relu(), (0,)),), (0,)), "results refers to 0; there are 1 to 1"),
        (lambda: Elementwise(1, ((Relu(), (0,)),), ()), "at least one number"),
        (lambda: Elementwise(2, ((ir.ops.Bias(), (0, 1)), (Mul(), (2, 1))), (3,)),
         "operand 1 is a bias and not"),
    ]  # fmt: skip
    for make, message in cases:
        with pytest.raises(ir.AttributeValueError) as error:
            make()
        assert message in str(error.value)


def test_bad_operands_are_refused_with_the_reason():
    t = ir.TensorType.parse
    cases = [
        (ir.ops.Div(), ("f32[3]", "f32[4]"), ir.ShapeError, "div: f32[3] and f32[4] do not"),
        (ir.ops.Where(), ("i64[3]", "f32[3]", "f32[3]"), ir.DTypeError, "where: c is i64[3]"),
        (ir.ops.Where(), ("f32[3]", "f64[3]", "f64[3]"), ir.DTypeError, "c must be float"),
        (Uniform((3,)), ("f32[]",), ir.DTypeError, "uniform: seed is f32[]; it must be i64"),
        (Uniform((3,)), ("i64[1]",), ir.ShapeError, "it must be one number, i64[]"),
        (Elementwise(2, ((Mul(), (0, 1)), (Relu(), (1,))), (2,)), ("f32[3]", "f32[]"),
         ir.ShapeError, "elementwise: step 1 (relu) gives f32[], the first one f32[3]"),
    ]  # fmt: skip
    for op, types, error, message in cases:
        with pytest.raises(error) as caught:
            op.result_types([t(type) for type in types])
        assert message in str(caught.value)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, math.nan, "half", None])
def test_a_dropout_rate_is_a_probability_below_one(rate):
    b = ir.Builder("drop")
    x, seed = b.input("x", "f32[3]"), b.input("seed", "i64[]")
    with pytest.raises(ir.AttributeValueError, match=r"dropout: rate = .* must be a number"):
        b.dropout(x, rate, seed)


def test_symbolic_extents_broadcast_with_themselves_and_one():
    b = ir.Builder("symbols")
    x, s = b.input("x", "f32[N, 3, H]"), b.input("s", "f32[N, 1, 1]")
    y = b.gelu(b.maximum(x / s, 0.0))
    assert str(b.where(b.step(y), y, s).type) == "f32[N, 3, H]"
    seed = b.input("seed", "i64[]")
    b.output("y", b.dropout(y, 0.1, seed))
    bound = b.build().bind({"N": 2, "H": 4})
    assert bound.types[bound.outputs["y"]].static_shape == (2, 3, 4)
    with pytest.raises(ir.ShapeError, match="do not broadcast"):
        b.maximum(x, b.input("t", "f32[M, 3, H]"))
