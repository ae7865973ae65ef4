"""Pools by norm, by weight and across channels; blurred pools: other libraries, ties, messages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ir
from ir.ops import ChannelPool, LpPool, WeightedPool
from ir.ops.pool_variants import distance_weights


def evaluated(build, *arrays, grad=None):
    """What `build` makes of inputs, and the gradient in each of them for the upstream `grad`."""
    b = ir.Builder("one")
    values = [b.input(f"in{i}", ir.TensorType.of(array)) for i, array in enumerate(arrays)]
    b.output("y", build(b, *values))
    given = {f"in{i}": array for i, array in enumerate(arrays)}
    if grad is None:
        return ir.interpret(b.build(), given)["y"]
    results = ir.interpret(ir.vjp(b.build()), {**given, "grad_y": grad})
    return [results["y"], *(results[f"grad_in{i}"] for i in range(len(arrays)))]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_norms_of_windows_are_pytorchs(data):
    torch = pytest.importorskip("torch")
    axes, p = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1.0, 1.5, 2.0, 3.0]))
    window = [data.draw(st.integers(1, 4)) for _ in range(axes)]
    stride = [data.draw(st.integers(1, 4)) for _ in range(axes)]
    size = [k + data.draw(st.integers(0, 5)) for k in window]
    lead = data.draw(st.sampled_from([(0, 2), (1, 1), (3, 5)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    x = rng.uniform(0.1, 2.0, (*lead, *size))  # PyTorch's is no norm of negative numbers
    t = torch.tensor(x, requires_grad=True)
    pool = getattr(torch.nn.functional, f"lp_pool{axes}d")
    pooled = pool(t, p, window if axes > 1 else window[0], stride if axes > 1 else stride[0])
    g = rng.standard_normal(tuple(pooled.shape))
    pooled.backward(torch.tensor(g))
    y, dx = evaluated(lambda b, v: b.lp_pool(v, window, p, stride), x, grad=g)
    np.testing.assert_allclose(y, pooled.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(dx, t.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_the_norm_of_a_window_of_zeros_has_gradient_zero(p):
    x = np.array([[[0.0, 0, 3, -4]]])
    y, dx = evaluated(lambda b, v: b.lp_pool(v, 2, p), x, grad=np.array([[[1.0, 10]]]))
    np.testing.assert_allclose(y.ravel(), [0, np.linalg.norm([3, -4], p)])
    assert dx.ravel()[:2].tolist() == [0, 0]
    assert np.all(np.sign(dx.ravel()[2:]) == [1, -1])


@pytest.mark.parametrize("p", [0.5, 0, np.inf, "2", True])
def test_a_norm_needs_a_number_of_at_least_one(p):
    with pytest.raises(ir.AttributeValueError, match="lp_pool: p "):
        LpPool((2,), (2,), ((0, 0),), (1,), "drop", p)


def test_weights_of_ones_average_the_real_cells():
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 7))
    where = {"stride": (2, 3), "pad": ((1, 1), (0, 2)), "edge": "partial"}
    got = evaluated(lambda b, v, w: b.weighted_pool(v, w, **where), x, np.ones((3, 3)))
    want = evaluated(lambda b, v: b.average_pool(v, 3, **where), x)
    np.testing.assert_allclose(got, want, rtol=1e-13)


@pytest.mark.parametrize("kind", ["gaussian", "inverse", "linear"])
def test_weights_fall_with_the_distance_from_the_middle(kind):
    weights = distance_weights((5, 4), kind, 3.0)
    distance = [[np.hypot(i - 2, j - 1.5) for j in range(4)] for i in range(5)]
    order = np.argsort(np.ravel(distance))
    assert weights.shape == (5, 4) and np.all(weights > 0)
    assert np.all(np.diff(weights.ravel()[order]) <= 1e-15)
    np.testing.assert_array_equal(weights, weights[::-1, ::-1])
    for d, weight in zip(np.ravel(distance), weights.ravel(), strict=True):
        d = d / 3
        formula = {"gaussian": np.exp(-(d**2) / 2), "inverse": 1 / (1 + d), "linear": 1 - d}
        np.testing.assert_allclose(weight, formula[kind])
    x = np.random.default_rng(1).standard_normal((1, 2, 5, 4)).astype(np.float32)
    got = evaluated(lambda b, v: b.distance_pool(v, (5, 4), kind, 3.0), x)
    want = (x * weights).sum((2, 3), keepdims=True) / weights.sum()
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_no_channels_have_no_means_and_weights_no_gradient():
    b = ir.Builder()
    b.output("y", b.weighted_pool(b.input("x", "f64[2, 0, 5]"), b.input("u", "f64[2]")))
    inputs = {"x": np.ones((2, 0, 5)), "u": np.ones(2), "grad_y": np.ones((2, 0, 2))}
    got = ir.interpret(ir.expand(ir.vjp(b.build())), inputs)
    assert got["y"].shape == (2, 0, 2) and got["grad_x"].shape == (2, 0, 5)
    assert got["grad_u"].tolist() == [0, 0]


def test_unknown_weights_and_weights_of_another_shape_are_refused():
    with pytest.raises(ir.AttributeValueError, match="kind = 'cosine' is not one of"):
        distance_weights((3,), "cosine")
    with pytest.raises(ir.AttributeValueError, match="width = 0 must be positive"):
        distance_weights((3,), "gaussian", 0)
    b = ir.Builder("one")
    with pytest.raises(ir.ShapeError, match="w needs one entry per channel"):
        b.sum_pool(b.input("x", "f32[1, 2, 8]"), 2, b.input("w", "f32[3]"))
    op = WeightedPool((3, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), "drop")
    x, weights = (ir.TensorType.parse(t) for t in ("f32[1, 2, 5, 5]", "f32[2, 3]"))
    with pytest.raises(ir.ShapeError, match="needs one entry for each cell of window"):
        op.infer(x, weights)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["max", "average", "l2"]),
    *[st.integers(0, 3)] * 2,
    st.integers(1, 5),
    st.lists(st.integers(1, 3), max_size=3),
)
def test_groups_of_channels_are_reduced_one_by_one(kind, batch, groups, size, spatial):
    x = np.random.default_rng(size).standard_normal((batch, groups * size, *spatial))
    got = evaluated(lambda b, v: b.channel_pool(v, size, kind), x)
    reduce = {"max": np.max, "average": np.mean, "l2": np.linalg.norm}[kind]
    assert got.shape == (batch, groups, *spatial)
    for n, q, *a in np.ndindex(*got.shape):
        members = [x[(n, q * size + r, *a)] for r in range(size)]
        np.testing.assert_allclose(got[(n, q, *a)], reduce(members), rtol=1e-12)


def test_the_first_of_equal_channels_takes_the_gradient():
    x = np.array([[[1.0, 2], [3, 2], [3, 0]]])
    _, dx = evaluated(lambda b, v: b.channel_pool(v, 3), x, grad=np.array([[[5.0, 7]]]))
    assert dx.tolist() == [[[0, 7], [5, 0], [0, 0]]]


def test_learned_invariance_three_templates_answer_alike_to_each():
    """Goodfellow et al. 2016, figure 9.9: maxout over detectors of three rotations."""
    template = np.random.default_rng(2).standard_normal((5, 5))
    turned = np.stack([np.rot90(template, q) for q in range(3)])

    def responses(b, images):
        detectors = b.conv(images, b.weight("w", turned[:, None].copy()))
        return b.channel_pool(detectors, 3)

    got = evaluated(responses, turned[:, None].copy())
    np.testing.assert_allclose(got.ravel(), np.sum(np.square(template)), rtol=1e-12)


def test_channels_that_are_no_whole_groups_are_refused():
    with pytest.raises(ir.ShapeError, match="5 channels are no whole groups of 2"):
        ChannelPool("max", 2).infer(ir.TensorType.parse("f32[1, 5, 3]"))
    with pytest.raises(ir.AttributeValueError, match="kind = 'sum' is not max, average or l2"):
        ChannelPool("sum", 2)
    (y,) = ChannelPool("max", 2).infer(ir.TensorType.parse("f32[N, 2*C, H]"))
    assert str(y) == "f32[N, C, H]"


def test_blurring_keeps_a_constant_and_shrinks_as_its_stride_says():
    x = np.full((2, 3, 7, 5), 1.5)
    for boundary in ("renormalised", "circular"):
        y = evaluated(lambda b, v: b.blur_pool(v, (2, 3), (1, 4, 6, 4, 1), boundary), x)  # noqa: B023
        np.testing.assert_allclose(y, np.full((2, 3, 4, 2), 1.5), rtol=1e-14)


def test_a_blurred_maximum_changes_less_under_a_shift_than_a_plain_one():
    wave = np.array([[[0.0, 0, 1, 1, 0, 0, 1, 1]]])
    pools = {
        "plain": lambda b, v: b.max_pool(v, 2),
        "blurred": lambda b, v: b.max_blur_pool(v, 2, boundary="circular"),
    }
    moved = {
        name: np.abs(evaluated(pool, wave) - evaluated(pool, np.roll(wave, -1, 2))).max()
        for name, pool in pools.items()
    }
    assert moved["plain"] == 1 and moved["blurred"] <= 0.25


def test_wrong_taps_and_boundaries_are_refused():
    b = ir.Builder("one")
    x = b.input("x", "f32[1, 2, 8]")
    for taps in ((1, -2, 1), (), "abc"):
        with pytest.raises(ir.AttributeValueError, match=r"taps = .* must be positive"):
            b.blur_pool(x, taps=taps)
    with pytest.raises(ir.AttributeValueError, match="boundary = 'zero' is not renormalised"):
        b.blur_pool(x, boundary="zero")
