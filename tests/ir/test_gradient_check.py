"""Gradients beside finite differences: what is found, what is said, what is no mistake."""

import numpy as np
import pytest

import ir


def one(op, type="f32[3, 20]"):
    b = ir.Builder("one")
    b.output("y", b.apply(op, b.input("x", type), name="node"))
    return b.build()


class TooSteep(ir.ops.Tanh):
    def derivative(self, b, x, y, g):
        return super().derivative(b, x, y, g) * 1.001


class LinearBelow(ir.ops.Relu):
    def derivative(self, b, x, y, g):
        return g


class NotFinite(ir.ops.Square):
    def derivative(self, b, x, y, g):
        return g * b.log(b.scale(b.square(x), -1.0))


@pytest.mark.parametrize("op", [TooSteep(), LinearBelow(), NotFinite()])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_a_wrong_derivative_is_named(op, dtype):
    message = (r"graph 'one': along a random direction in 'x', the gradient of 'y' is [-\d.na]+ "
               r"and differences give [-\d.]+ \(relative deviation ")  # fmt: skip
    for together in (False, True):
        with pytest.raises(ir.GradientError, match=message):
            ir.check_gradients(one(op, f"{dtype}[3, 20]"), together=together)


def test_which_weight_and_which_output_deviate_and_the_first_op_that_is_wrong():
    b = ir.Builder("two")
    x = b.input("x", "f32[N, 4]")
    w = b.weight("w", np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))
    right = b.weight("right", np.ones(3, np.float32))
    b.output("fine", b.relu(x))
    wrong = b.apply(TooSteep(), b.dense(x, w), name="steep")
    b.output("both", b.logistic(wrong + right))
    with pytest.raises(ir.GradientError) as raised:
        ir.check_gradients(b.build().bind({"N": 5}))
    said = str(raised.value)
    assert "in 'x', the gradient of 'both'" in said and "in 'w', the gradient of 'both'" in said
    assert "'fine'" not in said and "'right'" not in said
    assert said.endswith("; the first op that is wrong by itself is node 'steep' (tanh)")
    assert ir.check_gradients(b.build().bind({"N": 5}), wrt=["right"]) <= 1e-6


@pytest.mark.parametrize(
    "fill", [lambda s: np.zeros(s), lambda s: np.ones(s), lambda s: np.indices(s)[1] % 3.0]
)
def test_kinks_are_no_mistakes(fill):
    """relu at 0, equal elements under a maximum: there is no slope to compare with."""
    b = ir.Builder("kinks")
    x = b.input("x", "f32[2, 36]")
    image = b.reshape(x, (2, 1, 6, 6))
    b.output("relu", b.relu(x))
    b.output("pool", b.max_pool(image, 3, 2, pad=1))
    b.output("clip", b.clip(x, 0.0, 1.0))
    b.output("most", b.maximum(x, b.reverse(x, (1,))))
    graph = b.build()
    given = {"x": np.asarray(fill((2, 36)), np.float32)}
    assert ir.check_gradients(graph, given) <= 1e-6
    assert ir.check_gradients(ir.vjp(graph), given) <= 1e-6
    wrong = one(LinearBelow(), "f32[2, 36]")
    with pytest.raises(ir.GradientError, match="differences give"):
        ir.check_gradients(wrong, {"x": np.asarray(-1 - fill((2, 36)), np.float32)})


def test_a_deep_network_of_many_kinks_agrees():
    rng = np.random.default_rng(0)
    b = ir.Builder("deep")
    x = b.input("x", "f32[3, 4, 16, 16]")
    for _ in range(8):
        w = rng.standard_normal((4, 4, 3, 3)) / 4
        x = b.relu(b.conv(x, b.weight(b.fresh("w"), w.astype(np.float32)), pad=1))
    b.output("y", b.max_pool(x, 2))
    assert ir.check_gradients(b.build(), tolerance=1e-4) <= 1e-4


def test_integers_stay_and_what_is_drawn_is_in_range():
    b = ir.Builder("classes")
    x, labels = b.input("x", "f32[7, 5]"), b.input("labels", "i64[7]")
    seed = b.input("seed", "i64[]")
    b.output("loss", b.softmax_cross_entropy(b.dropout(x, 0.5, seed), labels))
    b.output("best", b.argmax(x, 1))
    assert ir.check_gradients(b.build()) <= 1e-6
    given = {"x": np.ones((7, 5), np.float32), "labels": np.arange(7) % 5}
    assert ir.check_gradients(b.build(), given) <= 1e-6
    with pytest.raises(ir.GradientError, match="'labels' is i64"):
        ir.check_gradients(b.build(), wrt=["labels"])


def test_what_goes_through_stop_gradient_is_kept():
    b = ir.Builder("stopped")
    x = b.input("x", "f32[4]")
    b.output("y", x * b.stop_gradient(b.exp(x)))
    b.output("none", b.stop_gradient(x))
    assert ir.check_gradients(b.build()) <= 1e-6


def test_second_derivatives_are_gradients_of_a_graph_too():
    b = ir.Builder("twice")
    x = b.input("x", "f64[5]")
    b.output("y", b.tanh(x) * x)
    once = ir.vjp(b.build())
    assert ir.check_gradients(once) <= 1e-6
    assert ir.check_gradients(ir.vjp(once, prefix="second_")) <= 1e-6


def test_small_gradients_beside_large_ones_are_compared_too():
    class Slow(ir.ops.Square):
        def derivative(self, b, x, y, g):
            return super().derivative(b, x, y, g) * 1.001

    b = ir.Builder("scales")
    x, z = b.input("x", "f64[3]"), b.input("z", "f64[3]")
    b.output("large", b.scale(b.square(x), 1e8))
    b.output("small", b.scale(b.apply(Slow(), z), 1e-8))
    with pytest.raises(ir.GradientError, match="in 'z', the gradient of 'small'"):
        ir.check_gradients(b.build())


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda: one(ir.ops.Log()), {}, "output 'y' is not finite for these inputs; give others"),
        (lambda: one(ir.ops.Cast("f64"), "i64[3]"), {}, "has no float input or weight"),
        (lambda: one(ir.ops.ArgMax(0)), {}, "'one' has no float output; there is no gradient"),
        (lambda: one(ir.ops.Relu()), {"wrt": ["y"]}, "'y' is not an input or weight"),
        (lambda: one(ir.ops.Relu(), "f32[N]"), {}, "bind its symbols first"),
        (lambda: one(ir.ops.Relu()), {"inputs": {"z": np.ones(3)}}, "no input 'z'"),
        (lambda: one(ir.ops.Relu()), {"directions": 0}, "directions = 0 must be 1 or more"),
        (lambda: one(ir.ops.Relu()), {"tolerance": 0}, "tolerance = 0 must be a number above 0"),
        (lambda: one(ir.ops.Relu()), {"tolerance": np.inf}, "must be a number above 0"),
        (lambda: one(ir.ops.Relu()), {"seed": -1}, "seed = -1 must be 0 or more"),
        (lambda: one(ir.ops.Relu()), {"wrt": []}, "wrt is empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(make, arguments, message):
    with pytest.raises(ir.Error, match=message):
        ir.check_gradients(make(), **arguments)


def test_sizes_come_from_what_is_given_and_positive_data_stay_so():
    data = np.random.default_rng(0).uniform(0.1, 1.0, (4,)).astype(np.float32)
    assert ir.check_gradients(one(ir.ops.Log(), "f32[N]"), {"x": data}) <= 1e-6
    assert ir.check_gradients(one(ir.ops.Log(), "f32[N]"), {"x": data[:0]}) == 0


def test_a_wrong_gradient_is_told_where_points_nearby_are_out_of_range():
    class Steep(ir.ops.Sqrt):
        def derivative(self, b, x, y, g):
            return super().derivative(b, x, y, g) * 2.0

    b = ir.Builder("edge")
    x = b.input("x", "f64[3]")
    b.output("y", b.apply(Steep(), 1.001 - x))
    with pytest.raises(ir.GradientError, match="differences give"):
        ir.check_gradients(b.build(), {"x": np.ones(3)})
