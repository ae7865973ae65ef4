"""Kernels learned without gradients."""

from __future__ import annotations

import numpy as np
import pytest

import convc
import ir
from convc.train.kernels import k_means, patches, reverse_correlation


def test_patches_are_parts_of_the_images() -> None:
    images = np.arange(2 * 3 * 5 * 6, dtype=np.float32).reshape(2, 3, 5, 6)
    found = patches(images, (2, 3), 40, np.random.default_rng(0))
    assert found.shape == (40, 3, 2, 3) and found.dtype == np.float32
    assert len(np.unique(found[:, 0, 0, 0])) > 20
    places = {int(value) for value in images[:, 0, :4, :4].flat}
    for patch in found:
        first = int(patch[0, 0, 0])
        assert first in places
        offsets = np.arange(3)[:, None, None] * 30 + np.arange(2)[:, None] * 6 + np.arange(3)
        assert np.array_equal(patch, first + offsets)
    with pytest.raises(convc.Error, match=r"have no patches of \[6, 2\]"):
        patches(images, (6, 2), 1, np.random.default_rng(0))


def test_k_means_agrees_with_scipy() -> None:
    scipy = pytest.importorskip("scipy.cluster.vq")
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.standard_normal((30, 4)) + shift for shift in (0, 3, -4)])
    start = points[[0, 30, 60]]
    centres, nearest = k_means(points, start)
    expected, labels = scipy.kmeans2(points, start, iter=50, minit="matrix")
    np.testing.assert_allclose(centres, expected)
    assert np.array_equal(nearest, labels)


def test_ties_go_to_the_first_centre_and_lonely_centres_stay() -> None:
    points = np.array([[0.0], [2.0], [4.0]])
    centres, nearest = k_means(points, np.array([[1.0], [3.0], [99.0]]), steps=1)
    assert nearest.tolist() == [0, 0, 1]
    assert centres.tolist() == [[1.0], [4.0], [99.0]]
    with pytest.raises(convc.Error, match=r"points \[3, 1\] and centres \[1, 2\]"):
        k_means(points, np.zeros((1, 2)))


def test_centres_of_patches_are_kernels() -> None:
    """Two patterns in noise; a convolution with the centres finds them again."""
    rng = np.random.default_rng(2)
    templates = np.array([np.eye(4), np.eye(4)[::-1]])[:, None]
    seen = templates[rng.integers(2, size=200)] + 0.1 * rng.standard_normal((200, 1, 4, 4))
    centres, _ = k_means(seen.astype(np.float32), templates.astype(np.float32) * 0.5)
    np.testing.assert_allclose(centres, templates, atol=0.05)
    b = ir.Builder()
    x = b.input("x", "f32[2, 1, 4, 4]")
    b.output("y", b.conv(x, b.weight("w", centres)))
    y = convc.compile(b.build()).run({"x": templates.astype(np.float32)})["y"]
    assert y[:, :, 0, 0].argmax(axis=1).tolist() == [0, 1]


def test_reverse_correlation_recovers_a_linear_unit() -> None:
    rng = np.random.default_rng(3)
    w, stimuli = rng.standard_normal((2, 3)), rng.standard_normal((20, 2, 3))
    found = reverse_correlation(stimuli, np.einsum("nij,ij->n", stimuli, w))
    np.testing.assert_allclose(found, w, atol=1e-12)
    with pytest.raises(convc.Error, match="must be as many"):
        reverse_correlation(stimuli, np.zeros(3))
