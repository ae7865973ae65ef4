"""Features learned without gradients: random kernels, centres of patches, layer by layer.

Goodfellow et al. 2016, section 9.9. The features of all images are computed once, natively; what is
trained is a linear classifier on them, by least squares.
"""

from __future__ import annotations

import numpy as np

import convc
import ir
from convc.train.digits import load_digits
from convc.train.kernels import k_means, patches
from ir.types import Array

DIGITS = load_digits()


def features(x: Array, *layers: Array) -> Array:
    """Convolution, rectifier and pooling with frozen kernels, for each of the layers."""
    b = ir.Builder("features")
    y = b.input("x", ir.TensorType.of(x))
    for kernels in layers:
        w = b.weight(b.fresh("w"), kernels.astype(np.float32))
        y = b.max_pool(b.relu(b.conv(y, w, pad="same")), 2)
    b.output("y", y)
    return convc.compile(b.build())(x)


def accuracy(*layers: Array) -> float:
    """Of the linear map that fits one-hot labels best, on the digits held back."""
    train, held = (
        features(images, *layers).reshape(len(images), -1)
        for images in (DIGITS.train_images, DIGITS.test_images)
    )
    squares = train.T @ train + 1e-2 * np.eye(train.shape[1])
    w = np.linalg.solve(squares, train.T @ np.eye(10)[DIGITS.train_labels])
    return float(np.mean((held @ w).argmax(1) == DIGITS.test_labels))


def normalised(kernels: Array) -> Array:
    """Kernels without a mean and of length 1."""
    axes = tuple(range(1, kernels.ndim))
    centred = kernels - kernels.mean(axes, keepdims=True)
    return centred / np.sqrt(np.square(centred).sum(axes, keepdims=True))


def centres(images: Array, count: int, rng: np.random.Generator) -> Array:
    """Kernels: centres of normalised patches; a little noise makes flat ones differ."""
    found = patches(images, (3, 3), 2000, rng)
    points = normalised(found + 1e-2 * rng.standard_normal(found.shape))
    return normalised(k_means(points, points[:count], steps=10)[0])


def test_random_kernels_are_good_features() -> None:
    random = normalised(np.random.default_rng(0).standard_normal((24, 1, 3, 3)))
    assert accuracy(random) > max(0.95, accuracy())


def test_centres_of_patches_are_features_layer_by_layer() -> None:
    """The first layer is fixed before the second is clustered from what it gives."""
    rng = np.random.default_rng(1)
    first = centres(DIGITS.train_images, 24, rng)
    assert accuracy(first) > 0.95
    second = centres(features(DIGITS.train_images, first), 64, rng)
    assert second.shape == (64, 24, 3, 3)
    assert accuracy(first, second) > 0.9
