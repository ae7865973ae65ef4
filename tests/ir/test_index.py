"""Reductions and ops on indices against PyTorch; ties, NaN, mistakes."""

import numpy as np
import pytest

import ir
from ir.ops import (
    ArgMax,
    MaxPoolIndices,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceProdGrad,
    Take,
    TakeAlong,
    TakeAlongGrad,
    TakeGrad,
)


def graph_of(make, **types):
    b = ir.Builder()
    b.output("y", make(b, *(b.input(name, type) for name, type in types.items())))
    return b.build()


def with_gradient(make, *arrays):
    """The result of a builder expression, and the gradient of its sum in the first operand."""
    types = {f"x{i}": ir.TensorType.of(array) for i, array in enumerate(arrays)}
    inputs = {f"x{i}": array for i, array in enumerate(arrays)}
    graph = ir.vjp(graph_of(make, **types), ["x0"])
    upstream = np.ones(graph.types[graph.outputs["y"]].static_shape, arrays[0].dtype)
    results = ir.interpret(graph, {**inputs, "grad_y": upstream})
    return results["y"], results["grad_x0"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 7), (1, 17, 2, 4)])
def test_reductions_and_their_gradients_are_those_of_torch(shape, dtype):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    rtol = 1e-5 if dtype == "float32" else 1e-12
    for name, axes in (("max", 1), ("min", -1), ("prod", 0), ("mean", (0, -1)), ("max", None)):
        tensor = torch.tensor(x, requires_grad=True)
        method = {"max": torch.amax, "min": torch.amin}.get(name, getattr(torch, name))
        want = method(tensor) if axes is None else method(tensor, axes)
        want.sum().backward()
        got, gradient = with_gradient(lambda b, v, n=name, a=axes: getattr(b, n)(v, a), x)
        np.testing.assert_allclose(got, want.detach().numpy(), rtol)
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol)
    for name in ("argmax", "argmin"):
        got = ir.interpret(
            graph_of(lambda b, v, n=name: getattr(b, n)(v, -1), x=ir.TensorType.of(x)), {"x": x}
        )["y"]
        np.testing.assert_array_equal(got, getattr(torch, name)(torch.tensor(x), -1).numpy())


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_running_sums_and_their_gradients_are_those_of_torch(axis):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((3, 5, 4))
    tensor = torch.tensor(x, requires_grad=True)
    whole = torch.cumsum(tensor, axis)
    from_end = torch.flip(torch.cumsum(torch.flip(tensor, (axis,)), axis), (axis,))
    cases = (({}, whole), ({"exclusive": True}, whole - tensor), ({"reverse": True}, from_end),
             ({"exclusive": True, "reverse": True}, from_end - tensor))  # fmt: skip
    for flags, want in cases:
        (gradient,) = torch.autograd.grad(want.sum(), tensor, retain_graph=True)
        got = with_gradient(lambda b, v, f=flags: b.cumsum(v, axis, **f), x)
        np.testing.assert_allclose(got[0], want.detach().numpy(), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got[1], gradient.numpy(), rtol=1e-12)


@pytest.mark.parametrize("x", [[[2.0, 0, 3]], [[0.0, 0, 3]], [[5.0, 0, 0]], [[0.0, 0, 0]]])
def test_the_gradient_of_a_product_knows_zeros(x):
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    torch.prod(tensor, 1).sum().backward()
    _, gradient = with_gradient(lambda b, v: b.prod(v, 1), np.array(x))
    np.testing.assert_array_equal(gradient, tensor.grad.numpy())
    np.testing.assert_array_equal(
        ReduceProdGrad((1,)).evaluate(np.array(x), np.ones(1))[0], tensor.grad.numpy()
    )


def test_the_first_of_equals_is_chosen_and_nan_wins():
    x = np.array([[1.0, 3, 3, 2], [np.nan, 7, np.nan, 8], [-1, -1, -1, -1]])
    got, gradient = with_gradient(lambda b, v: b.max(v, 1), x)
    np.testing.assert_array_equal(got, [3, np.nan, -1])
    np.testing.assert_array_equal(gradient, [[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    least, gradient = with_gradient(lambda b, v: b.min(v), -x)
    assert np.isnan(least)
    assert np.argwhere(gradient).tolist() == [[1, 0]]
    assert ArgMax(1).evaluate(x)[0].tolist() == [1, 0, 0]
    tied = np.array([[[0.0, 2], [2, 2]]])  # row-major over both reduced axes
    np.testing.assert_array_equal(
        with_gradient(lambda b, v: b.max(v, (2, 1)), tied)[1], [[[0, 1], [0, 0]]]
    )


def test_reductions_can_keep_their_axes():
    graph = graph_of(lambda b, x: b.max(x, (1, -1), keepdims=True), x="f64[N, 3, 4, W]")
    assert str(graph.types[graph.outputs["y"]]) == "f64[N, 1, 4, 1]"
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 5))
    got = ir.interpret(graph, {"x": x})["y"]
    np.testing.assert_array_equal(got, x.max((1, 3), keepdims=True))
    back = ir.interpret(ir.vjp(graph), {"x": x, "grad_y": np.ones_like(got)})["grad_x"]
    np.testing.assert_array_equal(back, x == got)
    graph = graph_of(lambda b, x: b.argmin(x, 2, keepdims=True), x="f64[N, 3, 4, W]")
    np.testing.assert_array_equal(ir.interpret(graph, {"x": x})["y"], x.argmin(2)[:, :, None])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_picking_by_index_and_its_gradient_are_those_of_torch(dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    x = rng.integers(-5, 6, (3, 7, 5)).astype(dtype)
    for axis in range(3):
        several = rng.integers(0, x.shape[axis], 11)
        tensor = torch.tensor(x, requires_grad=True)
        want = torch.index_select(tensor, axis, torch.tensor(several))
        want.sum().backward()
        got, gradient = with_gradient(lambda b, v, i, a=axis: b.take(v, i, a), x, several)
        np.testing.assert_array_equal(got, want.detach().numpy())
        np.testing.assert_array_equal(gradient, tensor.grad.numpy())
        shape = [2 if a == axis else n for a, n in enumerate(x.shape)]
        places = rng.integers(0, x.shape[axis], shape)
        tensor = torch.tensor(x, requires_grad=True)
        want = torch.gather(tensor, axis, torch.tensor(places))
        want.sum().backward()
        got, gradient = with_gradient(lambda b, v, i, a=axis: b.take_along(v, i, a), x, places)
        np.testing.assert_array_equal(got, want.detach().numpy())
        np.testing.assert_array_equal(gradient, tensor.grad.numpy())


@pytest.mark.parametrize("edge", ["drop", "partial"])
def test_indices_of_maxima_are_those_of_torch(edge):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(3).integers(-3, 4, (2, 3, 9, 8)).astype(np.float32)
    op = MaxPoolIndices((3, 2), (2, 2), ((1, 1), (1, 1)), (1, 1), edge)
    _, want = torch.nn.functional.max_pool2d(
        torch.tensor(x), (3, 2), (2, 2), 1, ceil_mode=edge == "partial", return_indices=True
    )
    np.testing.assert_array_equal(op.evaluate(x)[0], want.numpy())


def test_unpooling_needs_a_place_for_each_value():
    b = ir.Builder()
    x = b.input("x", "f32[1, 2, 4, 6]")
    with pytest.raises(ir.ShapeError, match=r"max_unpool: %x is .* one entry for each of x"):
        b.max_unpool(x, b.max_pool_indices(x, 2), (4, 6))


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_an_index_beyond_the_axis_is_an_error_with_its_place(wrong):
    index = np.array([0, 2, wrong])
    x, columns = np.ones((3, 3)), np.tile(index, (1, 1))
    ops = [(Take(0), x, index), (TakeGrad(0, 3), x, index), (TakeAlong(1), x[:1], columns),
           (TakeAlongGrad(1, 3), x[:1], columns)]  # fmt: skip
    for op, *arrays in ops:
        with pytest.raises(ir.InputError, match=rf"{op.name}: index {wrong} at .*2.*\[0, 3\)"):
            op.evaluate(*arrays)


F, I = "f32[3, 5]", "i64[2]"  # noqa: E741


@pytest.mark.parametrize(
    ("op", "types", "error", "message"),
    [
        (Take(2), (F, I), ir.ShapeError, "beyond the axes"),
        (Take(1), (F, "f32[2]"), ir.DTypeError, "convert it to i64"),
        (Take(1), (F, "i64[2, 1]"), ir.ShapeError, "one axis; flatten it"),
        (Take(1), ("f32[3, 0]", I), ir.ShapeError, "axis 1 is empty"),
        (TakeGrad(1, 4), (F, I), ir.ShapeError, "an entry per index"),
        (TakeGrad(1, 4), ("i64[3, 2]", I), ir.DTypeError, "cast it to a float"),
        (TakeAlong(1), (F, I), ir.ShapeError, "all but axis 1"),
        (TakeAlong(1), (F, "i64[2, 5]"), ir.ShapeError, "all but axis 1"),
        (TakeAlongGrad(0, 3), (F, "i64[3, 4]"), ir.ShapeError, "must agree"),
        (TakeAlongGrad(0, 0), (F, "i64[3, 5]"), ir.ShapeError, "axis 0 is empty"),
        (ArgMax(1), ("f32[3, 0]",), ir.ShapeError, "nothing on axis 1"),
        (ArgMax(2), (F,), ir.ShapeError, "beyond the axes"),
        (ReduceMax((1,)), ("f32[3, 0]",), ir.ShapeError, "nothing on axes"),
        (ReduceMin((0, 3)), (F,), ir.ShapeError, "beyond the axes"),
        (ReduceProd((0,)), ("i64[3]",), ir.DTypeError, "cast the operands"),
        (ReduceProdGrad((0,)), (F, F), ir.ShapeError, "the product of"),
    ],
)
def test_operands_that_do_not_fit_are_refused(op, types, error, message):
    with pytest.raises(error, match=f"{op.name}: .*{message}"):
        op.infer(*map(ir.TensorType.parse, types))
