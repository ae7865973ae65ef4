"""Convolution by kernels that are products of one-dimensional ones, an axis at a time.

A kernel of rank 1 in every unfolding is an outer product, and w**d products per output become
w * d (Goodfellow et al. 2016, section 9.8). Whether a kernel is one depends on its values, so it
must be a weight of the graph. The factors come from the singular vectors of its unfoldings (De
Lathauwer et al. 2000).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ir.types import Array

if TYPE_CHECKING:
    pass

RANK_ONE = {"f32": 1e-6, "f64": 1e-12}  # of the first singular value: what the second may be
APPROXIMATE = 1e-3  # what all beyond the terms of an approximation may be together
SAMPLE = 16  # kernels looked at before all of them are


def unfoldings(kernels: Array) -> list[Array]:
    """Of kernels [P, *taps], for each axis, the matrices [P, taps of the axis, other taps]."""
    return [
        np.moveaxis(kernels, 1 + axis, 1).reshape(len(kernels), kernels.shape[1 + axis], -1)
        for axis in range(kernels.ndim - 1)
    ]


def beyond(kernels: Array, terms: int) -> float:
    """The largest share of the first singular value that those after ``terms`` add up to."""
    worst = 0.0
    for matrices in unfoldings(kernels):
        values = np.linalg.svd(matrices, compute_uv=False)
        rest = values[:, terms:].sum(axis=1)
        worst = max(worst, float(np.max(rest / np.maximum(values[:, 0], 1e-300), initial=0.0)))
    return worst


def factors(kernels: Array, terms: int) -> list[Array]:
    """For each axis [P, terms, taps]; their products summed over the terms give the kernels.

    More than one term serves kernels of two axes.
    """
    bases = [np.linalg.svd(each)[0][:, :, :terms] for each in unfoldings(kernels)]
    if terms == 1:
        cores = kernels
        for basis in bases:
            cores = np.einsum("pt...,pt->p...", cores, basis[:, :, 0])
        scales = cores[:, None]
        bases = [basis.swapaxes(1, 2) for basis in bases]
    else:
        left, scales, right = np.linalg.svd(kernels, full_matrices=False)
        bases = [left.swapaxes(1, 2)[:, :terms], right[:, :terms]]
        scales = scales[:, :terms]
    root = np.abs(scales) ** (1 / len(bases))
    bases = [basis * root[:, :, None] for basis in bases]
    bases[0] = bases[0] * np.sign(scales)[:, :, None]
    return [_filled(basis, terms) for basis in bases]
