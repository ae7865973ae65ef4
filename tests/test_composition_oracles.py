"""What the builder composes of several ops, native beside PyTorch: values and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.oracles import SEED, Function, Shape, agree


def conv(t: Any, x: Any, w: Any, *rest: Any) -> Any:
    return getattr(t, f"conv{x.ndim - 2}d")(x, w, *rest)


def per_channel(t: Any, x: Any, kernel: Any, stride: int, pad: int) -> Any:
    """Every channel by one kernel, cells beyond the image being 0."""
    w = kernel.expand(x.shape[1], 1, *kernel.shape)
    return conv(t, x, w, None, stride, pad, 1, x.shape[1])


def weighted(t: Any, x: Any, kernel: Any, stride: int, pad: int) -> Any:
    """Means by weights over the cells that exist."""
    return per_channel(t, x, kernel, stride, pad) / per_channel(
        t, t.ones_like(x), kernel, stride, pad
    )


def distances(t: Any, *window: int) -> Any:
    """Distances from the middle of a window."""
    places = [t.arange(k, dtype=t.float64) - (k - 1) / 2 for k in window]
    return sum(p**2 for p in t.meshgrid(*places, indexing="ij")) ** 0.5


def binomial(t: Any, axes: int) -> Any:
    line = t.tensor([1.0, 2.0, 1.0], dtype=t.float64)
    return line if axes == 1 else line[:, None] * line


def wrapped(t: Any, x: Any, low: int, high: int) -> Any:
    return t.nn.functional.pad(x, (low, high) * (x.ndim - 2), mode="circular")


def shifted_maxima(t: Any, x: Any) -> Any:
    return t.nn.functional.max_pool2d(x, 2, 1)


def columns(t: Any, x: Any) -> Any:
    """Maps column by column."""
    return x.transpose(2, 3).flatten(1)


def taken_in_turns(t: Any, x: Any, w: Any) -> Any:
    """Tile ranges (2, 3) from phase (1, 0): each kernel everywhere, each cell from its own."""
    whole = t.stack([conv(t, x, w[..., a, c]) for a in range(2) for c in range(3)])
    rows, cols = whole.shape[-2:]
    which = ((t.arange(rows) + 1) % 2)[:, None] * 3 + t.arange(cols) % 3
    return t.gather(whole, 0, which.expand(1, *whole.shape[1:]))[0]


CASES: dict[str, tuple[tuple[Shape, ...], Function, Function]] = {
    "separable": (
        ((2, 3, 7, 6), (6, 1, 3, 2), (5, 6, 1, 1)),
        lambda b, x, d, p: b.separable_conv(x, d, p, stride=2, pad=1),
        lambda t, x, d, p: conv(t, conv(t, x, d, None, 2, 1, 1, 3), p)),
    "circular, flipped": (
        ((2, 3, 7, 6), (17, 3, 3, 3)),
        lambda b, x, w: b.conv(x, w, pad=1, flip=True, boundary="circular"),
        lambda t, x, w: conv(t, wrapped(t, x, 1, 1), w.flip(2, 3))),
    "tiled": (((1, 2, 7, 9), (3, 2, 2, 3, 2, 3)),
              lambda b, x, w: b.tiled_conv(x, w, phase=(1, 0)), taken_in_turns),
    "connected": (
        ((2, 3, 5, 6), (4, 2, 3)),
        lambda b, x, w: b.connected_conv(x, w, [[1, 0, 1], [0, 0, 0], [0, 1, 1]]),
        lambda t, x, w: t.cat([
            conv(t, x[:, [0, 2]], w[None, :2]),
            t.zeros(2, 1, 4, 4, dtype=x.dtype), conv(t, x[:, 1:], w[None, 2:])], 1)),
    "per location": (((2, 17, 3, 4), (17, 3, 4)),
                     lambda b, x, c: b.bias(x, c), lambda t, x, c: x + c),
    "tiled bias": (
        ((2, 3, 5, 4), (3, 2, 3)), lambda b, x, c: b.tiled_bias(x, c, (0, 2)),
        lambda t, x, c: x + c[:, t.arange(5) % 2][:, :, (t.arange(4) + 2) % 3]),
    "sum": (((2, 17, 7, 6), (17,)), lambda b, x, w: b.sum_pool(x, 3, w, 2),
            lambda t, x, w: t.nn.functional.avg_pool2d(x, 3, 2) * 9 * w[:, None, None]),
    "weighted": (((2, 5, 7, 6), (3, 2)), lambda b, x, u: b.weighted_pool(x, b.exp(u), 2, 1),
                 lambda t, x, u: weighted(t, x, u.exp(), 2, 1)),
    "gaussian": (
        ((1, 3, 7, 6),), lambda b, x: b.distance_pool(x, 3, "gaussian", 1.5, 1, 1),
        lambda t, x: weighted(t, x, (-(distances(t, 3, 3) ** 2) / 4.5).exp(), 1, 1)),
    "inverse": (((1, 3, 9),), lambda b, x: b.distance_pool(x, 4, "inverse", 2.0),
                lambda t, x: weighted(t, x, 1 / (1 + distances(t, 4) / 2), 4, 0)),
    "linear": (
        ((1, 3, 7, 6),), lambda b, x: b.distance_pool(x, 3, "linear", 3.0, 2, 1),
        lambda t, x: weighted(t, x, 1 - distances(t, 3, 3) / 3, 2, 1)),
    "blurred": (((2, 3, 7, 6),), lambda b, x: b.blur_pool(x, 2),
                lambda t, x: weighted(t, x, binomial(t, 2), 2, 1)),
    "blurred maxima": (((2, 17, 7, 6),), lambda b, x: b.max_blur_pool(x, 2),
                       lambda t, x: weighted(t, shifted_maxima(t, x), binomial(t, 2), 2, 1)),
    "circular blurred maxima": (
        ((2, 3, 8, 6),), lambda b, x: b.max_blur_pool(x, 2, boundary="circular"),
        lambda t, x: per_channel(t, wrapped(t, shifted_maxima(t, wrapped(t, x, 0, 1)), 1, 1),
                                 binomial(t, 2) / 16, 2, 0)),
    "maxout": (((2, 51, 3, 4),), lambda b, x: b.channel_pool(x, 3),
               lambda t, x: x.unflatten(1, (-1, 3)).amax(2)),
    "norms of channels": (((2, 6, 3),), lambda b, x: b.channel_pool(x, 2, "l2"),
                          lambda t, x: x.unflatten(1, (-1, 2)).norm(dim=2)),
    "global average": (((2, 20, 3, 5, 2),), lambda b, x: b.global_average_pool(x),
                       lambda t, x: x.mean((2, 3, 4), keepdim=True)),
    "blocks": (((2, 3, 5, 4),), lambda b, x: b.expand_blocks(x, (2, 3)),
               lambda t, x: x.repeat_interleave(2, 2).repeat_interleave(3, 3)),
    "every second": (((2, 17, 5, 4),), lambda b, x: b.downsample(x, (2, 3)),
                     lambda t, x: x[:, :, ::2, ::3]),
    "vec": (((2, 3, 5, 4),), lambda b, x: b.vec(x), columns),
    "unvec": (((2, 60),), lambda b, x: b.unvec(x, (3, 5, 4)),
              lambda t, x: x.reshape(2, 3, 4, 5).transpose(2, 3)),
    "masked dense": (((3, 5), (5, 17), (17,), (5, 17)),
                     lambda b, x, w, c, m: b.dense(x, w, c, b.step(m)),
                     lambda t, x, w, c, m: x @ (w * (m > 0) + 0 * m) + c),
    "complex cells": (
        ((1, 2, 6, 7), (6, 2, 3, 3)), lambda b, x, w: b.complex_cells(x, w, pad="same"),
        lambda t, x, w: conv(t, x, w, None, 1, 1).unflatten(1, (-1, 2)).norm(dim=2)),
    "quadratic cells": (
        ((1, 2, 6, 7), (6, 2, 3, 3), (3, 6)), lambda b, x, w, m: b.quadratic_cells(x, w, m),
        lambda t, x, w, m: t.einsum("nrab,kr->nkab", conv(t, x, w) ** 2, m)),
    "region maxima": (
        ((2, 3, 3, 4),), lambda b, x: b.region_pool(x, [[0, 5, 1], [11], [2, 3]]),
        lambda t, x: t.stack([x.flatten(2)[..., r].amax(2) for r in ([0, 5, 1], [11], [2, 3])], 2)),
    "learned regions": (((2, 3, 3, 4), (5, 12)), lambda b, x, p: b.region_sum(x, p),
                        lambda t, x, p: x.flatten(2) @ p.T),
    "softmax": (((2, 17, 3, 4),), lambda b, x: b.softmax(x), lambda t, x: t.softmax(x, 1)),
    "softmax of rows": (((2, 3, 4, 19),), lambda b, x: b.softmax(x, -1),
                        lambda t, x: t.softmax(x, -1)),
    "log softmax": (((2, 3, 5),), lambda b, x: b.log_softmax(x, 2),
                    lambda t, x: t.log_softmax(x, 2)),
    "squared loss": (((3, 17), (3, 17)), lambda b, x, y: b.squared_loss(x, y),
                     lambda t, x, y: ((x - y) ** 2).sum()),
    "hinge loss": (((5, 3), (5, 3)), lambda b, x, y: b.hinge_loss(x, y),
                   lambda t, x, y: t.relu(1 - x * y).sum()),
    "logistic loss": (((5, 3), (5, 3)), lambda b, x, y: b.logistic_loss(x, y),
                      lambda t, x, y: t.log1p(t.exp(-x * y)).sum()),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_composed_is_pytorchs(name: str, dtype: str) -> None:
    shapes, make, twin = CASES[name]
    rng = np.random.default_rng(SEED)
    floats = {"f32": np.float32, "f64": np.float64}[dtype]
    agree(make, twin, [rng.standard_normal(s).astype(floats) for s in shapes], dtype)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(
    "shape", [(5, 3), (1, 1), (3, 17), (2, 100), (3, 5, 7), (2, 20, 3, 4), (1, 2, 2, 1, 3)], ids=str
)
def test_cross_entropy_is_pytorchs(shape: Shape, dtype: str) -> None:
    """Of scores and of probabilities, also per pixel."""
    rng = np.random.default_rng(sum(shape))
    scores = rng.standard_normal(shape).astype({"f32": np.float32, "f64": np.float64}[dtype]) * 3
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    pairs: list[tuple[Function, Function]] = [
        (lambda b, x, n: b.softmax_cross_entropy(x, n),
         lambda t, x, n: t.nn.functional.cross_entropy(x, n)),
        (lambda b, x, n: b.cross_entropy(b.softmax(x), n),
         lambda t, x, n: t.nn.functional.nll_loss(t.softmax(x, 1).log(), n)),
    ]  # fmt: skip
    for make, twin in pairs:
        agree(make, twin, [scores], dtype, labels)
