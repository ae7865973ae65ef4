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
    n, (lo, hi) = case.size[axis], case.pads[axis]
    k, s, _, d, edge = (part if part == case.edge else part[axis] for part in case.geometry)
    reach = (k - 1) * d + 1
    found = []
    for start in range(-lo, n, s):
        if edge == "drop" and start + reach > n + hi:
            break
        found.append([cell for cell in range(start, start + reach, d) if 0 <= cell < n])
        if start + reach >= n + hi:
            break
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(
    ("op", "reduce"),
    [
        (lambda geometry: MaxPool(*geometry), np.max),
        (lambda geometry: AveragePool(*geometry, "real"), np.mean),
        (lambda geometry: AveragePool(*geometry, "one"), np.sum),
    ],
    ids=["max", "average", "sum"],
)
def test_pools_reduce_the_real_cells_of_every_window(case, op, reduce):
    x = np.random.default_rng(0).standard_normal((*case.lead, *case.size))
    (y,) = op(case.geometry).evaluate(x)
    cells = [windows(case, axis) for axis in range(len(case.size))]
    assert y.shape[2:] == tuple(map(len, cells))
    for n, c, *j in np.ndindex(*y.shape):
        chosen = np.ix_(*(cells[axis][position] for axis, position in enumerate(j)))
        np.testing.assert_allclose(y[n, c, *j], reduce(x[n, c][chosen]), rtol=1e-12, atol=1e-12)


def one_axis(values, k, s, pads=(0, 0), edge="drop", dilation=1):
    x = np.array(values, np.float64).reshape(1, 1, -1)
    return x, ((k,), (s,), (pads,), (dilation,), edge)


def test_the_last_region_may_be_smaller():
    x, attributes = one_axis([0.1, 1, 0.2, 0.1, 0, 0.1], 3, 2, edge="partial")
    assert MaxPool(*attributes).evaluate(x)[0].ravel().tolist() == [1, 0.2, 0.1]


def test_the_first_of_equal_maxima_takes_the_gradient():
    x = np.array([[[[1.0, 3], [3, 3]]]])
    attributes = ((2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), "drop")
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
        (picked,) = MaxPoolPick(*op.geometry).evaluate(x, d)
        assert np.sum(d * op.evaluate(x, g)[0]) == np.sum(picked * g)


def test_average_gradient_shares_among_real_cells():
    _, attributes = one_axis([0] * 3, 2, 2, edge="partial")
    (dx,) = AveragePoolGrad(*attributes, "real", (3,)).evaluate(np.array([[[4.0, 6.0]]]))
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
        MaxPool((2,), (2,), pads, (1,), "drop")


def test_the_divisor_counts_padding_but_nothing_beyond_it():
    x, attributes = one_axis([6.0, 6, 6, 6], 4, 3, (1, 2), "partial")
    averages = {
        kind: AveragePool(*attributes, kind).evaluate(x)[0].ravel().tolist()
        for kind in ("real", "padded", "one")
    }
    assert averages == {"real": [6, 6], "padded": [18 / 4, 12 / 4], "one": [18, 12]}
    x, attributes = one_axis([6.0, 6, 6], 4, 3, (1, 1), "partial")
    (y,) = AveragePool(*attributes, "padded").evaluate(x)
    assert y.ravel().tolist() == [18 / 4, 6 / 2]  # the second window: a cell, a pad, two beyond


def test_no_window_may_step_over_all_cells():
    x, attributes = one_axis([1.0, 2, 3], 2, 1, (2, 2), dilation=3)
    with pytest.raises(ir.ShapeError, match="dilation 3 leaves a window without cells"):
        MaxPool(*attributes).infer(ir.TensorType.of(x[:, :, :2]))
    assert MaxPool(*attributes).evaluate(x)[0].ravel().tolist() == [2, 3, 1, 2]


def test_an_unknown_divisor_is_refused():
    with pytest.raises(ir.AttributeValueError, match="divisor = 'pads' is not real, padded or one"):
        AveragePool((2,), (2,), ((0, 0),), (1,), "drop", "pads")


def test_an_unknown_edge_and_an_empty_axis_are_refused():
    with pytest.raises(ir.AttributeValueError, match="edge"):
        MaxPool((2,), (2,), ((0, 0),), (1,), "ceil")
    with pytest.raises(ir.ShapeError, match="at least one cell"):
        MaxPool((2,), (2,), ((1, 1),), (1,), "drop").infer(ir.TensorType.parse("f32[1, 1, 0]"))
