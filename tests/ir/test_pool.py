"""Pooling: edges, absent pads, ties, NaN, and two independent implementations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ir
from ir.ops import AveragePool, AveragePoolGrad, MaxPool, MaxPoolGrad, MaxPoolPick
from ir.ops.pool import CASES
from ir.ops.window import pooled_size


def windows(case, axis):
    """The real cells of each window on one axis, counted one by one."""
    n, k, s, (lo, hi) = (getattr(case, f)[axis] for f in ("size", "window", "stride", "pads"))
    found = []
    for start in range(-lo, n, s):
        if case.edge == "drop" and start + k > n + hi:
            break
        found.append(range(max(start, 0), min(start + k, n)))
        if start + k >= n + hi:
            break
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(("kind", "reduce"), [(MaxPool, np.max), (AveragePool, np.mean)])
def test_pools_reduce_the_real_cells_of_every_window(case, kind, reduce):
    example = next(e for e in kind.examples() if e.name == case.name)
    (x,) = example.arrays(np.random.default_rng(0), "float64")
    (y,) = example.op.evaluate(x)
    cells = [windows(case, axis) for axis in range(len(case.size))]
    assert y.shape[2:] == tuple(map(len, cells))
    for n, c, *j in np.ndindex(*y.shape):
        chosen = np.ix_(*(cells[axis][position] for axis, position in enumerate(j)))
        np.testing.assert_allclose(y[n, c, *j], reduce(x[n, c][chosen]), rtol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_max_pool_and_its_gradient_agree_with_torch(case):
    torch = pytest.importorskip("torch")
    if case.edge == "partial" or any(lo != hi or 2 * lo > k for (lo, hi), k in pads_of(case)):
        pytest.skip("torch pads both ends alike, by half a window at most")
    torch.set_num_threads(1)
    example = next(e for e in MaxPool.examples() if e.name == case.name)
    (x,) = example.arrays(np.random.default_rng(0), "float64", integers=True)
    t = torch.tensor(x, requires_grad=True)
    pool = getattr(torch.nn.functional, f"max_pool{len(case.size)}d")
    y = pool(t, case.window, case.stride, [lo for lo, _ in case.pads])
    g = np.random.default_rng(1).integers(-4, 5, tuple(y.shape)).astype(np.float64)
    y.backward(torch.tensor(g))
    assert np.array_equal(example.op.evaluate(x)[0], y.detach().numpy())
    (dx,) = MaxPoolGrad(*case.attributes).evaluate(x, g)
    assert np.array_equal(dx, t.grad.numpy())


def pads_of(case):
    return zip(case.pads, case.window, strict=True)


def one_axis(values, k, s, pads=(0, 0), edge="drop"):
    x = np.array(values, np.float64).reshape(1, 1, -1)
    return x, ((k,), (s,), (pads,), edge)


def test_the_last_region_may_be_smaller():
    x, attributes = one_axis([0.1, 1, 0.2, 0.1, 0, 0.1], 3, 2, edge="partial")
    assert MaxPool(*attributes).evaluate(x)[0].ravel().tolist() == [1, 0.2, 0.1]


def test_the_first_of_equal_maxima_takes_the_gradient():
    x = np.array([[[[1.0, 3], [3, 3]]]])
    attributes = ((2, 2), (1, 1), ((0, 0), (0, 0)), "drop")
    (dx,) = MaxPoolGrad(*attributes).evaluate(x, np.full((1, 1, 1, 1), 5.0))
    assert dx.tolist() == [[[[0, 5], [0, 0]]]]


def test_nan_propagates_and_takes_the_gradient():
    x, attributes = one_axis([1, np.nan, 9, np.nan], 4, 4)
    assert np.isnan(MaxPool(*attributes).evaluate(x)[0]).all()
    (dx,) = MaxPoolGrad(*attributes).evaluate(x, np.ones((1, 1, 1)))
    assert dx.ravel().tolist() == [0, 1, 0, 0]


def test_absent_cells_never_win_not_even_against_minus_infinity():
    x, attributes = one_axis([-np.inf, -np.inf], 2, 2, (1, 1))
    (dx,) = MaxPoolGrad(*attributes).evaluate(x, np.array([[[2.0, 3.0]]]))
    assert dx.ravel().tolist() == [2, 3]


def test_pick_reads_what_the_gradient_writes():
    rng = np.random.default_rng(0)
    for example in MaxPoolGrad.examples():
        x, g = example.arrays(rng, "float64", integers=True)
        d = rng.integers(-4, 5, x.shape).astype(np.float64)
        op = example.op
        (picked,) = MaxPoolPick(op.window, op.stride, op.pads, op.edge).evaluate(x, d)
        assert np.sum(d * op.evaluate(x, g)[0]) == np.sum(picked * g)


def test_average_gradient_shares_among_real_cells():
    _, attributes = one_axis([0] * 3, 2, 2, edge="partial")
    (dx,) = AveragePoolGrad(*attributes, (3,)).evaluate(np.array([[[4.0, 6.0]]]))
    assert dx.ravel().tolist() == [2, 2, 6]


@settings(max_examples=200, deadline=None)
@given(*[st.integers(1, 9)] * 3, st.integers(0, 8), st.integers(0, 8))
def test_partial_sizes_follow_their_definition_also_symbolically(n, k, s, lo, hi):
    lo, hi = min(lo, k - 1), min(hi, k - 1)
    out = -(-max(0, n + lo + hi - k) // s) + 1
    while (out - 1) * s >= n + lo:
        out -= 1
    assert pooled_size(n, k, s, lo, hi, "partial") == out
    if n + lo + hi >= k:
        symbolic = pooled_size(ir.symbol("n"), k, s, lo, hi, "partial")
        assert ir.bind(symbolic, {"n": n}) == out


@pytest.mark.parametrize("pads", [((2, 0),), ((0, -1),)])
def test_pads_stay_below_the_window(pads):
    with pytest.raises(ir.AttributeValueError, match="no window is empty"):
        MaxPool((2,), (2,), pads, "drop")


def test_an_unknown_edge_and_an_empty_axis_are_refused():
    with pytest.raises(ir.AttributeValueError, match="edge"):
        MaxPool((2,), (2,), ((0, 0),), "ceil")
    with pytest.raises(ir.ShapeError, match="at least one cell"):
        MaxPool((2,), (2,), ((1, 1),), "drop").infer(ir.TensorType.parse("f32[1, 1, 0]"))
