"""Normalisation, its gradients and running averages, native: PyTorch's, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import convc
import ir
from ir.ops import BatchNormTraining, GroupNorm, LayerNorm, LocalResponseNorm
from ir.types import Array
from tests.oracles import text_of, torch_or_skip

SHAPES = [
    (1, 1, 2),
    (3, 5, 7),
    (2, 16, 3, 3),
    (1, 17, 1, 5),
    (3, 6, 2, 3, 5),
    (7, 20),
    (2, 3, 11, 1),
]
Emit = Callable[..., ir.Value | tuple[ir.Value, ...]]


def close(got: Array, want: Any, dtype: str, what: str) -> None:
    want = want.detach().numpy()
    scale = np.max(np.abs(want), initial=1.0)
    tolerance = {"f32": 3e-5, "f64": 1e-12}[dtype]
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale, err_msg=what)


def compare(dtype: str, emit: Emit, oracle: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
    """The results and the gradients in all operands; the second half of them positive."""
    torch = torch_or_skip()
    rng = np.random.default_rng(sum(map(sum, shapes)))
    kind = {"f32": np.float32, "f64": np.float64}[dtype]
    arrays = [(2 + 3 * rng.standard_normal(shapes[0])).astype(kind)]
    arrays += [rng.uniform(0.5, 2, shape).astype(kind) for shape in shapes[1:]]
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    wanted = oracle(torch, *tensors)
    upstream = rng.standard_normal(tuple(wanted.shape)).astype(kind)
    wanted.backward(torch.tensor(upstream))

    b = ir.Builder("norm")
    values = [b.input(f"in{i}", text_of(shape, dtype)) for i, shape in enumerate(shapes)]
    y = emit(b, *values)
    b.output("y", y if isinstance(y, ir.Value) else y[0])
    graph = ir.vjp(b.build())
    inputs = {f"in{i}": array for i, array in enumerate(arrays)} | {"grad_y": upstream}
    for run in (ir.interpret, lambda graph, inputs: convc.compile(graph, 1).run(inputs)):
        got = run(graph, inputs)
        close(got["y"], wanted, dtype, "y")
        for i, tensor in enumerate(tensors):
            close(got[f"grad_in{i}"], tensor.grad, dtype, f"gradient of operand {i}")


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batches_are_normalised_as_pytorch_does(shape: tuple[int, ...], dtype: str) -> None:
    channels = shape[1:2]

    def emit(b: ir.Builder, x: ir.Value, scale: ir.Value, shift: ir.Value) -> Any:
        mean = b.weight("mean", np.zeros(channels, x.dtype.numpy))
        variance = b.weight("variance", np.ones(channels, x.dtype.numpy))
        return b.batch_norm_training(x, mean, variance, scale, shift, epsilon=1e-3)

    def oracle(torch: Any, x: Any, scale: Any, shift: Any) -> Any:
        return torch.nn.functional.batch_norm(x, None, None, scale, shift, True, eps=1e-3)

    compare(dtype, emit, oracle, shape, channels, channels)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_running_averages_move_as_pytorchs_do(shape: tuple[int, ...], dtype: str) -> None:
    torch = torch_or_skip()
    rng = np.random.default_rng(len(shape))
    kind = {"f32": np.float32, "f64": np.float64}[dtype]
    x = (5 + rng.standard_normal(shape)).astype(kind)
    mean, variance = rng.standard_normal(shape[1]), rng.uniform(0.5, 2, shape[1])
    mean, variance = mean.astype(kind), variance.astype(kind)
    running = torch.tensor(mean), torch.tensor(variance)
    y = torch.nn.functional.batch_norm(torch.tensor(x), *running, training=True, momentum=0.3)

    b = ir.Builder("norm")
    operands = [b.input(n, text_of(s, dtype))
                for n, s in (("x", shape), ("m", shape[1:2]), ("v", shape[1:2]))]  # fmt: skip
    for name, value in zip("ymv", b.batch_norm_training(*operands, momentum=0.3), strict=True):
        b.output(f"new_{name}", value)
    got = convc.compile(b.build(), 1).run({"x": x, "m": mean, "v": variance})
    for name, want in zip("ymv", (y, *running), strict=True):
        close(got[f"new_{name}"], want, dtype, name)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("shape", [*SHAPES, (0, 3, 4)], ids=str)
def test_given_averages_normalise_as_pytorchs_do(shape: tuple[int, ...], dtype: str) -> None:
    def oracle(torch: Any, x: Any, mean: Any, variance: Any, scale: Any, shift: Any) -> Any:
        column = (-1, *(1,) * (len(shape) - 2))  # PyTorch's own has no gradient in the averages
        mean, variance, scale, shift = (t.reshape(column) for t in (mean, variance, scale, shift))
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    compare(dtype, lambda b, *v: b.batch_norm(*v), oracle, shape, *[shape[1:2]] * 4)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 2], ids=str)
def test_instances_and_groups_are_normalised_as_pytorch_does(
    shape: tuple[int, ...], dtype: str
) -> None:
    channels = shape[1:2]
    groups = next(g for g in (5, 4, 3, 1, shape[1]) if shape[1] % g == 0)

    def instances(torch: Any, x: Any, scale: Any, shift: Any) -> Any:
        return torch.nn.functional.instance_norm(x, None, None, scale, shift)

    def grouped(torch: Any, x: Any, scale: Any, shift: Any) -> Any:
        return torch.nn.functional.group_norm(x, groups, scale, shift)

    compare(dtype, lambda b, *v: b.instance_norm(*v), instances, shape, channels, channels)
    by_groups = lambda b, x, *v: b.group_norm(x, groups, *v)  # noqa: E731
    compare(dtype, by_groups, grouped, shape, channels, channels)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("shape", [*SHAPES, (0, 3, 4)], ids=str)
def test_layers_are_normalised_as_pytorch_does(shape: tuple[int, ...], dtype: str) -> None:
    for count in range(1, len(shape)):
        axes, part = tuple(range(-count, 0)), shape[-count:]

        def layer(torch: Any, x: Any, scale: Any, shift: Any, part: Any = part) -> Any:
            return torch.nn.functional.layer_norm(x, part, scale, shift, 1e-2)

        def square(torch: Any, x: Any, scale: Any, part: Any = part) -> Any:
            return torch.nn.functional.rms_norm(x, part, scale, 1e-2)

        compare(
            dtype,
            lambda b, x, *v, a=axes: b.layer_norm(x, a, *v, epsilon=1e-2),
            layer,
            shape,
            part,
            part,
        )
        compare(
            dtype, lambda b, x, *v, a=axes: b.rms_norm(x, a, *v, epsilon=1e-2), square, shape, part
        )


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 2], ids=str)
def test_responses_are_normalised_as_pytorch_does(shape: tuple[int, ...], dtype: str) -> None:
    for size in (1, 3, 5):

        def oracle(torch: Any, x: Any, size: int = size) -> Any:
            return torch.nn.functional.local_response_norm(x, size, 0.5, 0.75, 2.0)

        compare(
            dtype,
            lambda b, x, n=size: b.local_response_norm(x, n, 0.5, 0.75, 2.0),
            oracle,
            shape,
        )


def test_an_even_window_of_channels_has_the_odd_one_above() -> None:
    x = np.array([[[1.0], [2.0], [3.0]]])
    (y,) = LocalResponseNorm(2, 2.0, 1.0, 0.0).evaluate(x)
    np.testing.assert_allclose(y.ravel(), [1 / 5, 2 / 13, 3 / 9])


def test_a_variance_far_from_zero_loses_no_digits() -> None:
    """Two passes: the mean of squares less the square of the mean would be all noise here."""
    rng = np.random.default_rng(0)
    x = (10000 + rng.standard_normal((4, 3, 25, 25))).astype(np.float32)
    b = ir.Builder("norm")
    b.output("y", b.instance_norm(b.input("x", ir.TensorType.of(x)), epsilon=0.0))
    got = convc.compile(b.build())(x)
    wide = x.astype(np.float64)
    centred = wide - wide.mean((2, 3), keepdims=True)
    want = centred / np.sqrt(np.square(centred).mean((2, 3), keepdims=True))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-3)  # of x's own spacing, 1e-3


def test_the_running_variance_may_be_that_of_the_batch() -> None:
    x = np.array([[1.0], [3.0]])
    zeros = np.zeros(1)
    for unbiased, variance in ((True, 2.0), (False, 1.0)):
        _, new_mean, new_variance = BatchNormTraining(0.0, 1.0, unbiased).evaluate(x, zeros, zeros)
        assert new_mean.tolist() == [2.0] and new_variance.tolist() == [variance]


@pytest.mark.parametrize(
    ("op", "types", "reason"),
    [
        (BatchNormTraining(1e-5, 0.1, True), ("f32[1, 3]", "f32[3]", "f32[3]"), "give at least 2"),
        (BatchNormTraining(1e-5, 0.1, False), ("f32[0, 3]", "f32[3]", "f32[3]"), "at least 1"),
        (BatchNormTraining(1e-5, 0.1, True), ("f32[4, 3]", "f32[3]", "f32[2]"), "per channel"),
        (GroupNorm(1e-5, 2), ("f32[1, 5, 3]",), "5 channels do not make 2 groups"),
        (LayerNorm(1e-5, (1,)), ("f32[3, 0]",), "nothing on axes"),
        (LayerNorm(1e-5, (2,)), ("f32[3, 4]",), "axes"),
        (LocalResponseNorm(3, 1.0, 1.0, 1.0), ("f32[3]",), "must be .N, C"),
    ],
    ids=["one number", "none", "channels", "groups", "nothing", "axes", "no channels"],
)
def test_wrong_shapes_are_refused(op: ir.Op, types: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ir.ShapeError, match=f"{op.name}.*{reason}"):
        op.infer(*map(ir.TensorType.parse, types))


def test_wrong_attributes_are_refused() -> None:
    with pytest.raises(ir.AttributeValueError, match=r"epsilon = -1\.0 must not be negative"):
        LayerNorm(-1, (1,))
    with pytest.raises(ir.AttributeValueError, match="unbiased = 1 must be a bool"):
        BatchNormTraining(1e-5, 0.1, 1)  # type: ignore[arg-type]
    b = ir.Builder("norm")
    with pytest.raises(ir.ShapeError, match="scale needs one entry per channel"):
        b.instance_norm(b.input("x", "f32[1, 3, 4]"), b.input("scale", "f32[4]"))


def test_names_are_those_of_the_results() -> None:
    b = ir.Builder("norm")
    x, c = b.input("x", "f32[2, 3, 4]"), b.input("c", "f32[3]")
    y, mean, variance = b.batch_norm_training(x, c, c, c, c, name="bn")
    assert (y.name, mean.name, variance.name) == (
        "bn", "batch_norm_training.mean", "batch_norm_training.variance"
    )  # fmt: skip
    assert b.group_norm(x, 3, name="gn").name == "gn"
    assert b.layer_norm(x, -1, b.input("w", "f32[4]"), name="ln").name == "ln"
