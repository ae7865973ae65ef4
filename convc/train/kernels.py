"""Kernels learned without gradients: centres of patches, and the filter a unit seems to have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc.errors import Error
from ir.types import Array


def patches(images: Array, kernel: Sequence[int], count: int, rng: np.random.Generator) -> Array:
    """Parts [count, C, *kernel] of images [N, C, *S], at places drawn from `rng`."""
    size = images.shape[2:]
    if len(kernel) != len(size) or any(k > n for k, n in zip(kernel, size, strict=False)):
        raise Error(f"images {list(images.shape)} have no patches of {list(kernel)}")
    found = np.empty((count, images.shape[1], *kernel), images.dtype)
    for patch in found:
        corner = [int(rng.integers(n - k + 1)) for n, k in zip(size, kernel, strict=True)]
        cells = (slice(a, a + k) for a, k in zip(corner, kernel, strict=True))
        image = images[int(rng.integers(len(images)))]
        patch[...] = image[:, *cells]
    return found


def k_means(points: Array, centres: Array, steps: int = 100) -> tuple[Array, Array]:
    """Lloyd's algorithm: the centres and the number of the nearest one for each point.

    Centres and points have any equal shape after the first axis, so centres of `patches` are the
    weights of a convolution (Coates and Ng 2012). Of equally near centres the first counts; one
    without points stays where it is. Ends when no point changes sides, or after `steps`.
    """
    if points.shape[1:] != centres.shape[1:] or not len(centres):
        given = f"points {list(points.shape)} and centres {list(centres.shape)}"
        raise Error(f"k_means: {given} differ after the first axis, or there is no centre")
    flat = points.reshape(len(points), -1).astype(np.float64)
    found = centres.reshape(len(centres), -1).astype(np.float64)
    nearest = np.full(len(flat), -1)
    for _ in range(steps):
        distances = np.square(flat[:, None] - found[None]).sum(axis=2)
        sides = distances.argmin(axis=1)
        if np.array_equal(sides, nearest):
            break
        nearest = sides
        for number in np.unique(nearest):
            found[number] = flat[nearest == number].mean(axis=0)
    return found.reshape(centres.shape).astype(points.dtype), nearest


def reverse_correlation(stimuli: Array, responses: Array) -> Array:
    """The linear filter, in the shape of one stimulus, that explains responses best.

    Least squares; exact for a linear unit whose stimuli [N, …] span all directions. Goodfellow et
    al. 2016, section 9.10.
    """
    if stimuli.shape[:1] != responses.shape:
        given = f"stimuli {list(stimuli.shape)} and responses {list(responses.shape)}"
        raise Error(f"reverse_correlation: {given} must be as many")
    flat = stimuli.reshape(len(stimuli), -1)
    weights: Array = np.linalg.lstsq(flat, responses, rcond=None)[0]
    return weights.reshape(stimuli.shape[1:])
