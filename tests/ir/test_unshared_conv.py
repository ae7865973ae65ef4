"""Local, tiled and connected convolutions and circular padding against torch and numpy."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ir
from ir.ops import CircularPad, ConnectedConv, ConnectedLocalConv, LocalConv, TiledBias, TiledConv
from ir.ops.connected import buckets
from ir.ops.window import output_size

SEEDS = st.integers(0, 2**32 - 1)


@dataclass
class Geometry:
    """A 2-D convolution: everything but the kernels."""

    batch: int
    channels: tuple[int, int]
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, int]
    groups: int

    @property
    def where(self):
        return self.stride, self.pads, self.dilation

    @property
    def out(self):
        axes = zip(self.size, self.kernel, *self.where, strict=True)
        return tuple(output_size(n, k, s, lo, hi, d) for n, k, s, (lo, hi), d in axes)

    @property
    def x(self):
        return (self.batch, self.channels[0], *self.size)


@st.composite
def geometries(draw):
    groups = draw(st.integers(1, 2))
    channels = (groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3)))
    kernel, stride, dilation = (
        tuple(draw(st.integers(1, most)) for _ in range(2)) for most in (3, 3, 2)
    )
    pads = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(2))
    size = tuple(
        draw(st.integers(max(1, (k - 1) * d + 1 - lo - hi), 7))
        for k, d, (lo, hi) in zip(kernel, dilation, pads, strict=True)
    )
    batch = draw(st.integers(1, 3))
    return Geometry(batch, channels, size, kernel, stride, pads, dilation, groups)


def numbers(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.integers(-4, 5, shape).astype(np.float64) for shape in shapes]


def with_gradients(op, x, w, g):
    """What the interpreter makes of an op, and of its gradients in both operands."""
    b = ir.Builder()
    operands = [b.input(name, ir.TensorType.of(array)) for name, array in (("x", x), ("w", w))]
    b.output("y", b.apply(op, *operands))
    results = ir.interpret(ir.vjp(b.build()), {"x": x, "w": w, "grad_y": g})
    return results["y"], results["grad_x"], results["grad_w"]


def in_torch(make, x, w, g):
    """The same in torch, where `make` is the formula."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    operands = [torch.tensor(array, requires_grad=True) for array in (x, w)]
    y = make(*operands)
    y.backward(torch.tensor(g))
    return [array.detach().numpy() for array in (y, *(operand.grad for operand in operands))]


def windows(geometry, x):
    """[N, groups, C/groups·taps, cells] of what each window reads."""
    functional = pytest.importorskip("torch.nn.functional")
    (top, bottom), (left, right) = geometry.pads
    padded = functional.pad(x, (left, right, top, bottom))
    seen = functional.unfold(padded, geometry.kernel, geometry.dilation, 0, geometry.stride)
    return seen.reshape(geometry.batch, geometry.groups, -1, seen.shape[-1])


@settings(max_examples=60, deadline=None)
@given(geometries(), SEEDS)
def test_local_convolution_is_a_product_for_each_window(geometry, seed):
    n, k, groups, cells = geometry.batch, geometry.channels[1], geometry.groups, geometry.out
    per_group = geometry.channels[0] // groups
    shapes = geometry.x, (k, *cells, per_group, *geometry.kernel), (n, k, *cells)
    x, w, g = numbers(seed, *shapes)

    def formula(x, w):
        own = w.reshape(groups, k // groups, cells[0] * cells[1], -1)
        seen = windows(geometry, x)
        return (own[None] * seen.permute(0, 1, 3, 2)[:, :, None]).sum(-1).reshape(n, k, *cells)

    op = LocalConv(*geometry.where, groups)
    for got, expected in zip(with_gradients(op, x, w, g), in_torch(formula, x, w, g), strict=True):
        assert np.array_equal(got, expected)


@settings(max_examples=60, deadline=None)
@given(
    geometries(), st.tuples(*[st.integers(1, 4)] * 2), st.tuples(*[st.integers(0, 5)] * 2), SEEDS
)
def test_tiled_convolution_is_a_local_one_with_kernels_that_return(geometry, tile, phase, seed):
    n, k, groups, cells = geometry.batch, geometry.channels[1], geometry.groups, geometry.out
    shape = (k, geometry.channels[0] // groups, *geometry.kernel, *tile)
    x, w, g = numbers(seed, geometry.x, shape, (n, k, *cells))
    rows, columns = ((np.arange(out) + p) % t for out, p, t in zip(cells, phase, tile, strict=True))

    def formula(x, w):
        own = w[..., rows[:, None], columns[None]].permute(0, 4, 5, 1, 2, 3)
        own = own.reshape(groups, k // groups, cells[0] * cells[1], -1)
        seen = windows(geometry, x)
        return (own[None] * seen.permute(0, 1, 3, 2)[:, :, None]).sum(-1).reshape(n, k, *cells)

    op = TiledConv(*geometry.where, groups, phase)
    for got, expected in zip(with_gradients(op, x, w, g), in_torch(formula, x, w, g), strict=True):
        assert np.array_equal(got, expected)


@settings(max_examples=60, deadline=None)
@given(geometries(), st.integers(0, 2**16), SEEDS)
def test_connected_convolution_is_one_with_kernels_left_out(geometry, bits, seed):
    functional = pytest.importorskip("torch.nn.functional")
    c, k = geometry.channels
    matrix = np.array([bits >> place & 1 for place in range(c * k)]).reshape(k, c)
    rows = tuple(tuple(np.flatnonzero(row).tolist()) for row in matrix)
    n, cells = geometry.batch, geometry.out
    x, dense, g = numbers(seed, geometry.x, (k, c, *geometry.kernel), (n, k, *cells))
    (top, bottom), (left, right) = geometry.pads

    def formula(x, w):
        padded = functional.pad(x, (left, right, top, bottom))
        kept = w * w.new_tensor(matrix)[:, :, None, None]
        return functional.conv2d(padded, kept, None, geometry.stride, 0, geometry.dilation)

    got = with_gradients(ConnectedConv(*geometry.where, rows), x, dense[matrix > 0], g)
    y, dx, dw = in_torch(formula, x, dense, g)
    for found, expected in zip(got, (y, dx, dw[matrix > 0]), strict=True):
        assert np.array_equal(found, expected)


@settings(max_examples=40, deadline=None)
@given(geometries(), st.integers(0, 2**16), SEEDS)
def test_local_connections_leave_out_local_kernels(geometry, bits, seed):
    c, k = geometry.channels
    matrix = np.array([bits >> place & 1 for place in range(c * k)]).reshape(k, c)
    rows = tuple(tuple(np.flatnonzero(row).tolist()) for row in matrix)
    n, cells = geometry.batch, geometry.out
    shapes = geometry.x, (k, *cells, c, *geometry.kernel), (n, k, *cells)
    x, dense, g = numbers(seed, *shapes)
    dense *= matrix[:, None, None, :, None, None]
    compact = np.moveaxis(dense, 3, 1)[matrix > 0]
    y, dx, dw = with_gradients(ConnectedLocalConv(*geometry.where, rows), x, compact, g)
    full = with_gradients(LocalConv(*geometry.where, 1), x, dense, g)
    assert np.array_equal(y, full[0]) and np.array_equal(dx, full[1])
    assert np.array_equal(dw, np.moveaxis(full[2], 3, 1)[matrix > 0])


def test_only_what_is_connected_is_computed():
    lenet = [[int(0 <= (j - i) % 6 < 3) for j in range(6)] for i in range(6)]
    b = ir.Builder()
    x, w = b.input("x", "f32[1, 6, 14, 14]"), b.input("w", "f32[18, 5, 5]")
    b.output("y", b.connected_conv(x, w, lenet))
    assert b.build().cost().flops == 2 * 18 * 25 * 100
    dense = b.conv(x, b.input("dense", "f32[6, 6, 5, 5]"))
    assert dense.shape == (1, 6, 10, 10)


def test_rows_with_the_same_inputs_are_one_group_of_a_convolution():
    assert list(buckets(((0, 1), (2, 3), (0, 1), (2, 3)))) == [[[0, 2], [1, 3]]]
    assert list(buckets(((0,), (1,), (0, 1), ()))) == [[[0], [1]], [[2]], [[3]]]
    blocks = ConnectedConv((1,), ((0, 0),), (1,), ((0, 1), (0, 1), (2, 3), (2, 3)))
    types = ir.TensorType.parse("f32[1, 4, 5]"), ir.TensorType.parse("f32[8, 3]")
    ops = [node.op.name for node in blocks.expansion(types).nodes]
    assert ops == ["reshape", "conv"]


def test_how_many_connections_there_are():
    op = ConnectedConv((1,), ((0, 0),), (1,), ((0,), (), (0, 2)))
    assert op.count == 3 and op.fan_in == (1, 0, 2) and op.fan_out(4) == (2, 0, 1, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 4)] * 2),
    st.tuples(*[st.tuples(*[st.integers(0, 11)] * 2)] * 2),
    SEEDS,
)
def test_circular_padding_wraps_as_often_as_it_takes(size, pads, seed):
    (x,) = numbers(seed, (2, 3, *size))
    (y,) = CircularPad(pads).evaluate(x)
    assert np.array_equal(y, np.pad(x, ((0, 0), (0, 0), *pads), mode="wrap"))
    expanded = CircularPad(pads).expansion((ir.TensorType.of(x),))
    assert np.array_equal(ir.interpret(expanded, {"x": x})["y0"], y)


def test_circular_padding_of_nothing():
    pads = CircularPad(((1, 0),))
    with pytest.raises(ir.ShapeError, match=r"circular_pad: pads \(1, 0\) on 0 cells .* to repeat"):
        pads.infer(ir.TensorType.parse("f32[1, 2, 0]"))
    (y,) = CircularPad(((0, 0),)).evaluate(np.zeros((1, 2, 0)))
    assert y.shape == (1, 2, 0)
    with pytest.raises(ir.ShapeError, match="-1 cells"):
        CircularPad(((-3, 0),)).infer(ir.TensorType.parse("f32[1, 2, 2]"))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 7)] * 2),
    st.tuples(*[st.integers(1, 4)] * 2),
    st.tuples(*[st.integers(0, 5)] * 2),
    SEEDS,
)
def test_a_tiled_bias_counts_cells_from_its_phase(size, tile, phase, seed):
    x, bias = numbers(seed, (2, 3, *size), (3, *tile))
    (y,) = TiledBias(phase).evaluate(x, bias)
    for n, c, *cell in np.ndindex(*x.shape):
        at = [(j + p) % t for j, p, t in zip(cell, phase, tile, strict=True)]
        assert y[n, c, *cell] == x[n, c, *cell] + bias[c, *at]


def test_unshared_ops_stand_in_graphs_of_symbolic_size():
    b = ir.Builder()
    x, w = b.input("x", "f32[N, 2, H, W]"), b.input("w", "f32[3, 2, 3, 3, 2, 1]")
    y = b.tiled_bias(b.tiled_conv(x, w, pad="same"), b.input("b", "f32[3, 2, 2]"), phase=1)
    b.output("y", b.circular_pad(y, 1))
    graph = b.build()
    assert str(graph.types[graph.outputs["y"]]) == "f32[N, 3, H+2, W+2]"
    bound = graph.bind({"N": 1, "H": 5, "W": 4})
    assert bound.types[bound.outputs["y"]].shape == (1, 3, 7, 6)
    assert ir.parse(str(graph)) == graph


WRONG = [
    (lambda b, x: b.local_conv(x, b.input("w", "f32[4, 5, 5, 3, 3, 3]")),
     r"make \(6, 6\), but w is f32\[4, 5, 5, 3, 3, 3\] with kernels for \(5, 5\)"),
    (lambda b, x: b.local_conv(x, b.input("w", "f32[4, 6, 6, 2, 3, 3]")), "with 3 channels, but"),
    (lambda b, x: b.local_conv(x, b.input("w", "f32[4, 3, 3, 3]")),
     r"local_conv: %w is .* w must be \[K, \*out, C/groups, \*k\]"),
    (lambda b, x: b.local_conv(x, b.input("w", "f32[2, 6, 6, 3, 3]"), groups=3,
                               connections=[[1, 0, 0], [0, 1, 0]]), "not both"),
    (lambda b, x: b.tiled_conv(x, b.input("w", "f32[4, 3, 3, 3]")), r"\[K, C/groups, \*k, \*t\]"),
    (lambda b, x: b.tiled_conv(x, b.input("w", "f32[4, 2, 3, 3, 2, 2]")), "with 3 channels, but"),
    (lambda b, x: b.tiled_conv(x, b.input("w", "f32[4, 3, 3, 3, 0, 2]")), "none may be empty"),
    (lambda b, x: b.tiled_conv(x, b.input("w", "f32[4, 3, 3, 3, 2, 2]"), phase=-1),
     "phase = -1 must be at least 0"),
    (lambda b, x: b.tiled_conv(x, b.input("w", "f32[4, 3, 3, 3, 2, 2]"), phase=(1, 2, 3)),
     "3 entries for 2 axes"),
    (lambda b, x: b.connected_conv(x, b.input("w", "f32[2, 3, 3]"), [[1, 0], [0, 1]]),
     "2 columns for the 3 channels"),
    (lambda b, x: b.connected_conv(x, b.input("w", "f32[3, 3, 3]"), [[1, 0, 1]]),
     "with 3 kernels for 2 connections"),
    (lambda b, x: b.connected_conv(x, b.input("w", "f32[3, 3, 3]"), [[2, 0, 1]]),
     "must be a matrix of 0 and 1"),
    (lambda b, x: b.connected_conv(x, b.input("w", "f32[3, 3, 3]"), [0, 1, 2]),
     "must be a matrix of 0 and 1"),
    (lambda b, x: b.tiled_bias(x, b.input("w", "f32[2, 2, 2]")), r"must be x \[N, C, \*S\] and b"),
    (lambda b, x: b.conv(x, b.input("w", "f32[4, 3, 3, 3]"), boundary="mirror"),
     "boundary = 'mirror' must be"),
    (lambda b, x: b.circular_pad(x, "same"), "give a number or"),
    (lambda b, x: b.bias(x, b.input("w", "f32[3, 4, 4]")), "entry per channel"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_what_does_not_fit_is_refused_with_the_reason(make, message):
    b = ir.Builder()
    with pytest.raises((ir.ShapeError, ir.AttributeValueError), match=message):
        make(b, b.input("x", "f32[1, 3, 8, 8]"))


@pytest.mark.parametrize(
    ("connections", "message"),
    [
        ((), "must list inputs for each output"),
        (((0,), 1), "must hold a tuple"),
        (((0, -1),), "must be at least 0"),
        (((1, 0),), "must rise"),
        (((0, 0),), "must rise"),
    ],
)
def test_connections_that_are_none_are_refused(connections, message):
    with pytest.raises(ir.AttributeValueError, match=message):
        ConnectedConv((1,), ((0, 0),), (1,), connections)


def test_a_connection_to_a_channel_that_is_not_there_is_refused():
    op = ConnectedConv((1,), ((0, 0),), (1,), ((0, 3),))
    with pytest.raises(ir.ShapeError, match="reads channel 3, but x is"):
        op.infer(ir.TensorType.parse("f32[1, 3, 5]"), ir.TensorType.parse("f32[2, 3]"))
