"""What holds for every convolution, interpreted and native; and what does not hold."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import ir
from ir.matrix import convolution_matrix
from ir.ops.window import output_size, transposed_sizes
from tests.convolutions import (
    RUNS,
    SEEDS,
    Array,
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

# ---------------------------------------------------------------- three ops, one trilinear form


@RUNS
@few
@given(case=cases(), seed=SEEDS)
def test_output_kernel_and_input_gradients_are_one_trilinear_form(
    run: Run, case: Case, seed: int
) -> None:
    x, w, g = whole(seed, case.x, case.w, case.y)
    rest = case.arguments
    y = evaluated(run, case.conv, x=x, w=w)
    dw = evaluated(run, lambda b, g, x: b.conv_weight_grad(g, x, case.w[2:], **rest), g=g, x=x)
    dx = evaluated(run, lambda b, w, g: b.conv_transpose(g, w, case.x[2:], **rest), w=w, g=g)
    assert np.sum(g * y) == np.sum(w * dw) == np.sum(x * dx)


@RUNS
@fewer
@given(case=cases(most=6), seed=SEEDS)
def test_differentiated_twice_it_is_again_the_three_ops(run: Run, case: Case, seed: int) -> None:
    """For upstream e of the input gradient h(w, g): dw = g(g, e), dg = c(w, e)."""
    w, g, e, x = whole(seed, case.w, case.y, case.x, case.x)
    size, kernel, rest = case.x[2:], case.w[2:], case.arguments
    graph = graph_of(lambda b, w, g: b.conv_transpose(g, w, size, **rest), w=w, g=g)
    back = gradients(run, graph, {"w": w, "g": g}, e)
    forward = evaluated(run, case.conv, x=e, w=w)
    weights = evaluated(run, lambda b, g, x: b.conv_weight_grad(g, x, kernel, **rest), g=g, x=e)
    assert np.array_equal(back["g"], forward) and np.array_equal(back["w"], weights)
    graph = graph_of(lambda b, g, x: b.conv_weight_grad(g, x, kernel, **rest), g=g, x=x)
    back = gradients(run, graph, {"g": g, "x": x}, w)
    assert np.array_equal(back["g"], evaluated(run, case.conv, x=x, w=w))
    transposed = evaluated(run, lambda b, w, g: b.conv_transpose(g, w, size, **rest), w=w, g=g)
    assert np.array_equal(back["x"], transposed)


@RUNS
@few
@given(case=cases(most=5), seed=SEEDS, flip=st.booleans(), circular=st.booleans())
def test_it_is_a_product_with_a_matrix_and_back_with_its_transpose(
    run: Run, case: Case, seed: int, flip: bool, circular: bool
) -> None:
    x, w, g = whole(seed, case.x, case.w, case.y)
    boundary = "circular" if circular else "zero"
    rest = {**case.arguments, "flip": flip, "boundary": boundary}
    matrix = convolution_matrix(w, case.x[2:], **rest)
    graph = graph_of(lambda b, x, w: b.conv(x, w, **rest), x=x, w=w)
    back = ir.vjp(graph, ["x"])
    results = run(back, {"x": x, "w": w, "grad_y": g})
    flat = x.reshape(len(x), -1), g.reshape(len(x), -1)
    assert np.array_equal(results["y"].reshape(len(x), -1), flat[0] @ matrix.T)
    assert np.array_equal(results["grad_x"].reshape(len(x), -1), flat[1] @ matrix)
    assert np.count_nonzero(matrix, axis=1).max() <= prod(case.w[1:])


@given(
    st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(0, 4), st.integers(0, 4),
    st.integers(1, 3),
)  # fmt: skip
def test_all_sizes_that_a_transpose_can_have_and_no_others(
    out: int, k: int, stride: int, lo: int, hi: int, dilation: int
) -> None:
    sizes = transposed_sizes(out, k, stride, lo, hi, dilation)
    assert len(sizes) <= stride
    for n in range(sizes.stop + 3):
        if n + lo + hi > (k - 1) * dilation:
            assert (output_size(n, k, stride, lo, hi, dilation) == out) == (n in sizes)
        else:
            assert n not in sizes


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_both_forms_of_the_size_agree(n: int, k: int, stride: int, pad: int) -> None:
    if n + 2 * pad >= k:
        assert output_size(n, k, stride, pad, pad) == -(-(n - (k - 1) + 2 * pad) // stride)


# ---------------------------------------------------------------- linear


@RUNS
@few
@given(case=cases(), seed=SEEDS, factor=st.integers(-3, 3))
def test_it_is_linear_in_the_input_and_in_the_kernel(
    run: Run, case: Case, seed: int, factor: int
) -> None:
    x, other, w, v = whole(seed, case.x, case.x, case.w, case.w)
    y = evaluated(run, case.conv, x=x, w=w)
    both = evaluated(run, case.conv, x=x * factor + other, w=w)
    assert np.array_equal(both, factor * y + evaluated(run, case.conv, x=other, w=w))
    both = evaluated(run, case.conv, x=x, w=w * factor + v)
    assert np.array_equal(both, factor * y + evaluated(run, case.conv, x=x, w=v))


def combined(first: Array, second: Array, strides: tuple[int, ...]) -> Array:
    """The one kernel of two convolutions after each other: Σ_q full(second[i,q], first[q,l])."""
    dilated = zip(second.shape[2:], strides, strict=True)
    spread = np.zeros((*second.shape[:2], *((k - 1) * s + 1 for k, s in dilated)))
    spread[(..., *(slice(None, None, s) for s in strides))] = second
    channels = first.swapaxes(0, 1)  # [l, q] as a batch of images with q channels
    flipped = evaluated(ir.interpret, lambda b, x, w: b.conv(x, w, pad="full", flip=True),
                        x=channels, w=spread)  # fmt: skip
    return flipped.swapaxes(0, 1)


@RUNS
@few
@given(
    sizes=st.tuples(*[st.integers(8, 11)] * 2), kernels=st.tuples(*[st.integers(1, 3)] * 4),
    strides=st.tuples(*[st.integers(1, 2)] * 4), mode=st.sampled_from(["valid", "full"]),
    seed=SEEDS,
)  # fmt: skip
def test_two_linear_convolutions_are_one(
    run: Run,
    sizes: tuple[int, ...],
    kernels: tuple[int, ...],
    strides: tuple[int, ...],
    mode: str,
    seed: int,
) -> None:
    one, two = strides[:2] if mode == "valid" else (1, 1), strides[2:]
    x, first, second, bias = whole(
        seed, (1, 2, *sizes), (3, 2, *kernels[:2]), (2, 3, *kernels[2:]), (3,)
    )
    if mode == "full":
        bias *= 0  # what it adds beyond the image no single convolution adds

    def layers(b: ir.Builder, x: ir.Value, w: ir.Value, v: ir.Value, c: ir.Value) -> ir.Value:
        return b.conv(b.bias(b.conv(x, w, one, mode), c), v, two, mode)

    both = evaluated(run, layers, x=x, w=first, v=second, c=bias)
    strides = tuple(a * b for a, b in zip(one, two, strict=True))
    kernel = combined(first, second, one)
    single = evaluated(run, lambda b, x, w: b.conv(x, w, strides, mode), x=x, w=kernel)
    offset = (second.sum(axis=(2, 3)) @ bias)[:, None, None]
    assert np.array_equal(both, single + offset)


def test_two_same_convolutions_are_one_in_the_interior_only() -> None:
    x, first, second = whole(0, (1, 1, 9), (1, 1, 3), (1, 1, 3))
    both = evaluated(
        ir.interpret,
        lambda b, x, w, v: b.conv(b.conv(x, w, pad="same"), v, pad="same"), x=x, w=first, v=second,
    )  # fmt: skip
    kernel = combined(first, second, (1,))
    single = evaluated(ir.interpret, lambda b, x, w: b.conv(x, w, pad="same"), x=x, w=kernel)
    assert np.array_equal(both[..., 1:-1], single[..., 1:-1])
    assert not np.array_equal(both, single)


def test_a_threshold_between_two_convolutions_is_seen() -> None:
    x, first, second = whole(1, (1, 1, 9), (2, 1, 3), (1, 2, 3))
    y = evaluated(
        ir.interpret, lambda b, x, w, v: b.conv(b.relu(b.conv(x, w)), v), x=x, w=first, v=second
    )
    kernel = combined(first, second, (1,))
    assert not np.array_equal(
        y, evaluated(ir.interpret, lambda b, x, w: b.conv(x, w), x=x, w=kernel)
    )


# ---------------------------------------------------------------- flipped kernels


@RUNS
@fewer
@given(case=cases(), seed=SEEDS)
def test_a_network_trained_with_flipped_kernels_learns_the_flipped_kernel(
    run: Run, case: Case, seed: int
) -> None:
    x, w, g = whole(seed, case.x, case.w, case.y)
    axes = tuple(range(2, len(case.w)))
    graph = graph_of(lambda b, x, w: b.conv(x, w, flip=True, **case.arguments), x=x, w=w)
    turned = np.ascontiguousarray(np.flip(w, axes))
    assert np.array_equal(
        run(graph, {"x": x, "w": w})["y"], evaluated(run, case.conv, x=x, w=turned)
    )
    plain = graph_of(case.conv, x=x, w=w)
    flipped_back = gradients(run, graph, {"x": x, "w": w}, g)["w"]
    assert np.array_equal(
        flipped_back, np.flip(gradients(run, plain, {"x": x, "w": w}, g)["w"], axes)
    )


@RUNS
@few
@given(a=st.tuples(*[st.integers(1, 5)] * 2), b=st.tuples(*[st.integers(1, 5)] * 2), seed=SEEDS)
def test_full_convolution_commutes_and_correlation_turns_round(
    run: Run, a: tuple[int, int], b: tuple[int, int], seed: int
) -> None:
    x, w = whole(seed, (1, 1, *a), (1, 1, *b))

    def full(x: Array, w: Array, flip: bool) -> Array:
        return evaluated(run, lambda b, x, w: b.conv(x, w, pad="full", flip=flip), x=x, w=w)

    assert np.array_equal(full(x, w, True), full(w, x, True))
    assert np.array_equal(full(x, w, False), np.flip(full(w, x, False), (2, 3)))


def test_with_several_channels_equal_counts_do_not_make_it_commute() -> None:
    x, w = whole(0, (2, 2, 3), (2, 2, 3))

    def full(x: Array, w: Array) -> Array:
        return evaluated(
            ir.interpret, lambda b, x, w: b.conv(x, w, pad="full", flip=True), x=x, w=w
        )

    assert full(x, w).shape == full(w, x).shape
    assert not np.array_equal(full(x, w), full(w, x))


# ---------------------------------------------------------------- shifts


@RUNS
@few
@given(
    size=st.tuples(*[st.integers(1, 6)] * 2), kernel=st.tuples(*[st.integers(1, 4)] * 2),
    shift=st.tuples(*[st.integers(-3, 3)] * 2), stride=st.integers(1, 2), seed=SEEDS,
)  # fmt: skip
def test_a_circular_convolution_of_a_shifted_image_is_shifted(
    run: Run,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    shift: tuple[int, ...],
    stride: int,
    seed: int,
) -> None:
    size = tuple(n * stride for n in size)  # so that the image goes round in whole strides
    x, w = whole(seed, (1, 2, *size), (3, 2, *kernel))
    pad = [((k - 1) // 2, k // 2) for k in kernel]

    def conv(b: ir.Builder, x: ir.Value, w: ir.Value) -> ir.Value:
        return b.conv(x, w, stride, pad, boundary="circular")

    moved = np.roll(x, [s * stride for s in shift], (2, 3))
    y = evaluated(run, conv, x=x, w=w)
    assert np.array_equal(evaluated(run, conv, x=moved, w=w), np.roll(y, shift, (2, 3)))


def test_a_strided_convolution_does_not_follow_other_shifts_nor_a_rotation() -> None:
    x, w = whole(0, (1, 1, 8, 8), (1, 1, 3, 3))
    for stride, moved in ((2, np.roll(x, 1, 3)), (1, np.rot90(x, 1, (2, 3)).copy())):

        def conv(b: ir.Builder, x: ir.Value, w: ir.Value, stride: int = stride) -> ir.Value:
            return b.conv(x, w, stride, 1, boundary="circular")

        y, other = (evaluated(ir.interpret, conv, x=each, w=w) for each in (x, moved))
        turns = (np.rot90(y, turn, (2, 3)) for turn in range(4))
        rolls = [np.roll(t, s, (2, 3)) for t in turns for s in np.ndindex(*y.shape[2:])]
        assert not any(np.array_equal(other, roll) for roll in rolls)


@RUNS
@few
@given(case=cases(axes=2, plain=True), stride=st.tuples(*[st.integers(1, 3)] * 2), seed=SEEDS,
       pad=st.sampled_from(["valid", "same", "full"]))  # fmt: skip
def test_a_stride_skips_results_of_the_convolution_without(
    run: Run, case: Case, stride: tuple[int, int], seed: int, pad: str
) -> None:
    size = tuple(max(n, k) for n, k in zip(case.x[2:], case.w[2:], strict=True))
    x, w = whole(seed, (*case.x[:2], *size), case.w)
    strided = evaluated(run, lambda b, x, w: b.conv(x, w, stride, pad), x=x, w=w)
    skipped = evaluated(run, lambda b, x, w: b.downsample(b.conv(x, w, 1, pad), stride), x=x, w=w)
    assert np.array_equal(strided, skipped)
