"""Which weights convolutions share, and which cells depend on which."""

from __future__ import annotations

import itertools
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convc
import ir
from ir.analysis import receptive_fields
from ir.matrix import convolution_matrix
from tests.convolutions import (
    RUNS,
    SEEDS,
    Case,
    Run,
    cases,
    evaluated,
    few,
    fewer,
    gradients,
    graph_of,
    whole,
)

# ---------------------------------------------------------------- sharing


@RUNS
@fewer
@given(case=cases(axes=2), phase=st.tuples(*[st.integers(0, 3)] * 2), seed=SEEDS)
def test_tiles_of_one_kernel_are_shared_and_tiles_of_all_are_not(
    run: Run, case: Case, phase: tuple[int, int], seed: int
) -> None:
    x, w, g = whole(seed, case.x, case.w, case.y)
    rest, out = case.arguments, case.y[2:]
    (one,) = whole(seed + 1, (*case.w, *out))

    def tiled(b: ir.Builder, x: ir.Value, w: ir.Value) -> ir.Value:
        return b.tiled_conv(x, w, phase=phase, **rest)

    y = evaluated(run, case.conv, x=x, w=w)
    assert np.array_equal(evaluated(run, tiled, x=x, w=w[..., None, None]), y)
    rolled = np.roll(one, [-p for p in phase], (4, 5))  # [K, C, *k, *out], output by output
    own = np.ascontiguousarray(np.moveaxis(rolled, (4, 5), (1, 2)))
    alone = evaluated(run, lambda b, x, w: b.local_conv(x, w, **rest), x=x, w=own)
    assert np.array_equal(evaluated(run, tiled, x=x, w=one), alone)
    tied = np.broadcast_to(w[:, None, None], (w.shape[0], *out, *w.shape[1:])).copy()
    graph = graph_of(lambda b, x, w: b.local_conv(x, w, **rest), x=x, w=tied)
    assert np.array_equal(run(graph, {"x": x, "w": tied})["y"], y)
    shared = gradients(run, graph_of(case.conv, x=x, w=w), {"x": x, "w": w}, g)
    unshared = gradients(run, graph, {"x": x, "w": tied}, g)
    assert np.array_equal(unshared["w"].sum(axis=(1, 2)), shared["w"])  # the sum over its uses
    assert np.array_equal(unshared["x"], shared["x"])


@RUNS
@few
@given(case=cases(axes=1, most=6), seed=SEEDS)
def test_convolution_is_a_dense_layer_with_few_numbers_many_times(
    run: Run, case: Case, seed: int
) -> None:
    x, w = whole(seed, case.x, case.w)
    matrix = convolution_matrix(w, case.x[2:], **case.arguments)
    dense = evaluated(run, lambda b, x, m: b.dense(b.flatten(x), m), x=x, m=matrix.T.copy())
    assert np.array_equal(evaluated(run, case.conv, x=x, w=w).reshape(dense.shape), dense)
    assert set(np.unique(matrix)) <= {0.0, *np.unique(w)} or prod(case.w[2:]) > 1


def test_a_dense_layer_is_blind_to_a_permutation_and_a_convolution_is_not() -> None:
    order = np.random.default_rng(0).permutation(9)
    x, w, m = whole(0, (1, 1, 9), (1, 1, 3), (9, 4))

    def dense(b: ir.Builder, x: ir.Value, m: ir.Value) -> ir.Value:
        return b.dense(b.flatten(x), m)

    y = evaluated(ir.interpret, dense, x=x, m=m)
    assert np.array_equal(y, evaluated(ir.interpret, dense, x=x[..., order].copy(), m=m[order]))
    results = {
        tuple(
            evaluated(ir.interpret, lambda b, x, w: b.conv(x, w), x=x, w=w[..., turn].copy()).flat
        )
        for turn in map(list, itertools.permutations(range(3)))
    }
    mixed = evaluated(ir.interpret, lambda b, x, w: b.conv(x, w), x=x[..., order].copy(), w=w)
    assert tuple(mixed.flat) not in results


@RUNS
def test_the_gradient_of_tied_weights_is_the_sum_over_their_uses(run: Run) -> None:
    """A decoder that is the encoder backwards."""
    x, w, g = whole(3, (1, 2, 5, 5), (3, 2, 2, 2), (1, 2, 5, 5))

    def coder(b: ir.Builder, x: ir.Value, w: ir.Value, v: ir.Value) -> ir.Value:
        return b.conv_transpose(b.conv(x, w, 2), v, (5, 5), 2)

    graph = graph_of(coder, x=x, w=w, v=w)
    tied = graph_of(lambda b, x, w: coder(b, x, w, w), x=x, w=w)
    parts = gradients(run, graph, {"x": x, "w": w, "v": w}, g)
    total = gradients(run, tied, {"x": x, "w": w}, g)["w"]
    assert np.array_equal(total, parts["w"] + parts["v"])


# ---------------------------------------------------------------- borders, biases, fields


@pytest.mark.parametrize("mode", ["valid", "same", "full"])
@given(n=st.integers(1, 9), k=st.integers(1, 5))
def test_border_cells_have_less_influence_unless_padding_is_full(mode: str, n: int, k: int) -> None:
    if mode == "valid" and n < k:
        return
    matrix = convolution_matrix(np.ones((1, 1, k)), (n,), pad=mode)
    reaches, reads = matrix.sum(axis=0), matrix.sum(axis=1)
    inner = min(k, n)
    assert reads.max() == inner
    if mode == "full":
        assert np.all(reaches == k)
    if mode == "valid":
        assert np.all(reads == k) and reaches[0] == 1
    if mode == "same":
        assert len(reads) == n and np.array_equal(reads, reaches[::-1])


@RUNS
@few
@given(case=cases(), seed=SEEDS, more=st.integers(0, 5))
def test_a_higher_bias_lowers_no_response(run: Run, case: Case, seed: int, more: int) -> None:
    x, w, bias = whole(seed, case.x, case.w, case.w[:1])

    def layer(b: ir.Builder, x: ir.Value, w: ir.Value, bias: ir.Value) -> ir.Value:
        return b.relu(b.bias(case.conv(b, x, w), bias))

    low, high = (evaluated(run, layer, x=x, w=w, bias=each) for each in (bias, bias + more))
    assert np.all(high >= low) and np.all((high > 0) >= (low > 0))


@RUNS
def test_circular_random_filters_respond_most_to_their_own_frequency(run: Run) -> None:
    """A linear filter followed by pooling of squares: Goodfellow et al. 2016, section 9.9."""
    n = 16
    w = np.random.default_rng(5).standard_normal((1, 1, 5))
    gain = np.abs(np.fft.rfft(w[0, 0], n))
    waves = np.arange(n) * 2 * np.pi / n

    def response(b: ir.Builder, x: ir.Value, w: ir.Value) -> ir.Value:
        y = b.conv(x, w, pad=[(2, 2)], boundary="circular")
        return b.sum(b.square(y), (1, 2))

    frequencies = np.arange(1, n // 2)[:, None]
    images = np.cos(frequencies * waves)[:, None]
    powers = evaluated(run, response, x=images, w=w)
    assert 1 + powers.argmax() == 1 + gain[1 : n // 2].argmax()
    np.testing.assert_allclose(powers, n / 2 * gain[1 : n // 2] ** 2, rtol=1e-10)
    moved = evaluated(run, response, x=np.roll(images, 3, 2), w=w)
    np.testing.assert_allclose(moved, powers, rtol=1e-10)


@RUNS
@fewer
@given(data=st.data(), seed=SEEDS)
def test_only_cells_in_the_receptive_field_change_a_result(
    run: Run, data: st.DataObject, seed: int
) -> None:
    size, rng = 40, np.random.default_rng(seed)  # three layers of stride 2 fit

    pad: Any = data.draw(st.sampled_from(["valid", "same", "full"]))

    def layers(b: ir.Builder, x: ir.Value) -> ir.Value:
        for _ in range(data.draw(st.integers(1, 3))):
            k, stride, dilation = (data.draw(st.integers(1, most)) for most in (3, 2, 2))
            w = b.weight(b.fresh("w"), rng.uniform(1, 2, (1, 1, k)))
            x = b.bias(b.conv(x, w, stride, pad, dilation), b.weight(b.fresh("b"), np.ones(1)))
        return x

    x = rng.standard_normal((1, 1, size))
    graph = graph_of(layers, x=x)
    field = receptive_fields(graph, "x")[graph.outputs["y"]]
    y = run(graph, {"x": x})["y"]
    at = data.draw(st.integers(0, y.size - 1))
    g = np.zeros(y.shape)
    g[..., at] = 1
    touched = np.flatnonzero(gradients(run, graph, {"x": x}, g)["x"]).tolist()
    first = field.start[0] + at * field.jump[0]
    last = first + field.size[0] - 1
    assert all(first <= cell <= last for cell in touched)
    if pad == "valid":
        assert touched[0] == first and touched[-1] == last


def test_one_set_of_parameters_serves_images_of_any_size() -> None:
    rng = np.random.default_rng(6)
    b = ir.Builder()
    x = b.input("x", "f32[N, 2, H, W]")
    tiles, kernels = (rng.standard_normal(s).astype("f4") for s in ((3, 2, 3, 3, 2, 1), (5, 3, 3)))
    y = b.tiled_conv(x, b.weight("tiles", tiles), pad="same", boundary="circular")
    y = b.relu(b.tiled_bias(y, b.weight("bias", tiles[:, 0, 0, :2, 0]), phase=1))
    pairs = [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
    b.output("y", b.connected_conv(y, b.weight("kernels", kernels), pairs, stride=2))
    graph = ir.vjp(b.build())
    model = convc.compile(graph)
    for n, h, w in ((1, 5, 9), (3, 8, 4), (2, 5, 9)):
        out = (n, 3, (h - 3) // 2 + 1, (w - 3) // 2 + 1)
        inputs = {"x": rng.standard_normal((n, 2, h, w)), "grad_y": rng.standard_normal(out)}
        given = {name: array.astype(np.float32) for name, array in inputs.items()}
        results = model.run(given)
        for name, expected in ir.interpret(graph, given, "float64").items():
            np.testing.assert_allclose(results[name], expected, rtol=0, atol=1e-4, err_msg=name)
