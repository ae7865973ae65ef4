"""Convolution against its trilinear form, a matrix of index loops, torch and onnxruntime."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ir
from ir.ops import Conv, ConvInputGrad, ConvWeightGrad
from ir.ops.conv import CASES
from ir.ops.window import named_pads, output_size


@dataclass
class Geometry:
    attributes: tuple
    x: tuple
    w: tuple


@st.composite
def geometries(draw):
    axes = draw(st.integers(1, 2))
    groups, per_in, per_out = (draw(st.integers(1, 2)) for _ in range(3))
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    stride = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(axes))
    pads = tuple((draw(st.integers(-2, 4)), draw(st.integers(-2, 4))) for _ in range(axes))
    size = []
    for k, d, (lo, hi) in zip(kernel, dilation, pads, strict=True):
        least = max(0, (k - 1) * d + 1 - lo - hi)
        size.append(draw(st.integers(least, least + 5)))
    batch = draw(st.integers(0, 2))
    x = (batch, groups * per_in, *size)
    return Geometry((stride, pads, dilation, groups), x, (groups * per_out, per_in, *kernel))


@settings(max_examples=150, deadline=None)
@given(geometries(), st.integers(0, 2**32 - 1))
def test_the_three_ops_are_one_trilinear_form(geometry, seed):
    rng = np.random.default_rng(seed)
    x, w = (rng.integers(-4, 5, shape).astype(np.float64) for shape in (geometry.x, geometry.w))
    (y,) = Conv(*geometry.attributes).evaluate(x, w)
    g = rng.integers(-4, 5, y.shape).astype(np.float64)
    (dw,) = ConvWeightGrad(*geometry.attributes, w.shape[2:]).evaluate(g, x)
    (dx,) = ConvInputGrad(*geometry.attributes, x.shape[2:]).evaluate(w, g)
    assert np.sum(g * y) == np.sum(w * dw) == np.sum(x * dx)


def loops(case, x, w):
    """Formula by formula, one multiply-add at a time."""
    stride, pads, dilation, groups = case.attributes
    y = np.zeros(Conv(*case.attributes).infer(*map(ir.TensorType.of, (x, w)))[0].shape)
    per_in, per_out = w.shape[1], w.shape[0] // groups
    for n, i, *j in np.ndindex(*y.shape):
        for c, *m in np.ndindex(*w.shape[1:]):
            terms = zip(j, stride, m, dilation, pads, strict=True)
            at = [a * s + b * d - lo for a, s, b, d, (lo, _) in terms]
            if all(0 <= p < size for p, size in zip(at, x.shape[2:], strict=True)):
                y[n, i, *j] += x[n, i // per_out * per_in + c, *at] * w[i, c, *m]
    return y


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_conv_is_its_formula(case):
    example = next(e for e in Conv.examples() if e.name == case.name)
    x, w = example.arrays(np.random.default_rng(0), "float64", integers=True)
    x, w = x[:1], w[: 2 * case.groups] if case.groups < 3 else w
    assert np.array_equal(example.op.evaluate(x, w)[0], loops(case, x, w))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_conv_and_its_gradients_agree_with_torch(case):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    example = next(e for e in Conv.examples() if e.name == case.name)
    arrays = example.arrays(np.random.default_rng(0), "float64", integers=True)
    x, w = (torch.tensor(array, requires_grad=True) for array in arrays)
    padded = torch.nn.functional.pad(x, [p for pair in reversed(case.pads) for p in pair])
    conv = getattr(torch.nn.functional, f"conv{len(case.size)}d")
    y = conv(padded, w, None, case.stride, 0, case.dilation, case.groups)
    g = np.random.default_rng(1).integers(-4, 5, tuple(y.shape)).astype(np.float64)
    y.backward(torch.tensor(g))
    assert np.array_equal(example.op.evaluate(*arrays)[0], y.detach().numpy())
    (dx,) = ConvInputGrad(*case.attributes, case.size).evaluate(arrays[1], g)
    (dw,) = ConvWeightGrad(*case.attributes, case.kernel).evaluate(g, arrays[0])
    assert np.array_equal(dx, x.grad.numpy())
    assert np.array_equal(dw, w.grad.numpy())


@pytest.mark.parametrize("mode", ["valid", "same", "full"])
def test_modes_agree_with_scipy_for_odd_kernels(mode):
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 9, (7, 8)).astype(float), rng.integers(-9, 9, (3, 5)).astype(float)
    b = ir.Builder()
    y = b.conv(b.input("x", "f64[1, 1, 7, 8]"), b.weight("w", w[None, None]), pad=mode)
    b.output("y", y)
    got = ir.interpret(b.build(), {"x": x[None, None]})["y"][0, 0]
    assert np.array_equal(got, np.round(signal.correlate2d(x, w, mode)))


def test_an_even_same_kernel_pads_more_at_the_high_end():
    assert named_pads("same", (6, 4, 3), (1, 1, 2)) == ((2, 3), (1, 2), (2, 2))
    y = Conv((1,), named_pads("same", (6,), (1,)), (1,), 1)
    (got,) = y.evaluate(np.ones((1, 1, 16)), np.ones((1, 1, 6)))
    assert got[0, 0].tolist() == [4, 5, *[6] * 11, 5, 4, 3]


def test_modes_do_not_depend_on_the_stride():
    x, w = np.array([[[1.0, 2, 3, 4]]]), np.array([[[1.0, 10, 100]]])
    (got,) = Conv((2,), named_pads("same", (3,), (1,)), (1,), 1).evaluate(x, w)
    assert got.tolist() == [[[210, 432]]]


def test_output_sizes_and_their_precondition():
    assert output_size(64, 2, 2, 0, 0) == 32
    assert output_size(5, 1, 2, 0, 0) == 3
    assert str(output_size(ir.symbol("H"), 3, 2, 1, 1)) == "(H+1)//2"
    with pytest.raises(ir.ShapeError, match="smaller than a kernel"):
        output_size(0, 1, 2, 0, 0)


def test_a_transposed_convolution_takes_every_legal_size():
    w, g = ir.TensorType.parse("f32[4, 3, 3]"), ir.TensorType.parse("f32[1, 4, 2]")
    legal = []
    for size in range(3, 9):
        try:
            legal.append(ConvInputGrad((2,), ((0, 0),), (1,), 1, (size,)).infer(w, g)[0].shape[2])
        except ir.ShapeError:
            continue
    assert legal == [5, 6]


def test_bright_spot():
    x = np.array([[[1.0, 1, -1, -1, -1, 1, -1, 1, 1, 1]]])
    (y,) = Conv((1,), ((0, 0),), (1,), 1).evaluate(x, np.array([[[1.0, -1, 1]]]))
    assert y[0, 0].tolist() == [-1, 1, -1, 1, -3, 3, -1, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"stride": (0, 1)},
        {"stride": (1.5, 1)},
        {"stride": 1},
        {"dilation": (1,)},
        {"pads": ((0, 0),)},
        {"pads": (1, 1)},
        {"groups": 0},
        {"groups": (1,)},
    ],
)
def test_bad_attributes_are_refused_by_name(change):
    good = {"stride": (1, 1), "pads": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    with pytest.raises(ir.AttributeValueError, match=f"conv: {next(iter(change))} = "):
        Conv(**{**good, **change})


def test_lists_become_tuples():
    assert Conv([1], [[0, 0]], [1], 1) == Conv((1,), ((0, 0),), (1,), 1)


def test_axes_combine_every_way():
    for k, s, d, lo, hi in itertools.product((1, 3), (1, 2), (1, 2), (0, 2), (0, 1)):
        x, w = np.arange(9.0).reshape(1, 1, 9), np.arange(1.0, k + 1).reshape(1, 1, k)
        (y,) = Conv((s,), ((lo, hi),), (d,), 1).evaluate(x, w)
        stuffed = np.zeros((k - 1) * d + 1)
        stuffed[::d] = w
        full = np.correlate(np.pad(x[0, 0], (lo, hi)), stuffed, "valid")
        assert np.array_equal(y[0, 0], full[::s])
