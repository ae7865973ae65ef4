"""Regions of images, found outside of graphs: around strong features, and of equal labels.

Regions to pool over may be recomputed for each image (Goodfellow et al. 2016, section 9.3); to a
graph they are constants, the operands of `Builder.region_max` and `Builder.region_sum`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import prod

import numpy as np

from convc.errors import Error
from convc.train.kernels import k_means
from ir.types import Array


def feature_regions(features: Array, count: int) -> Array:
    """The number of the region of each cell: features [N, C, *S] → i64 [N, *S], each below `count`.

    For every image, the places where the norm over the channels is above its mean (the strongest
    `count` at least) are clustered by k-means, starting from the strongest; a cell belongs to the
    centre nearest to it. Regions are numbered by their centres, row by row. None is empty: a
    centre that is nearest to no cell takes the nearest one that a region can spare.
    """
    size = features.shape[2:]
    if not 1 <= count <= prod(size):
        raise Error(f"feature_regions: no {count} regions of {prod(size)} cells")
    cells = np.stack([axis.ravel() for axis in np.indices(size)], axis=1).astype(np.float64)
    strengths = np.linalg.norm(features.reshape(*features.shape[:2], -1), axis=1)
    found = np.zeros((len(features), len(cells)), np.int64)
    for regions, strength in zip(found, strengths, strict=True):
        order = np.argsort(-strength, kind="stable")
        strong = order[: max(count, np.count_nonzero(strength > strength.mean()))]
        centres, _ = k_means(cells[strong], cells[order[:count]])
        centres = centres[np.lexsort(centres.T[::-1])]
        distances = np.square(cells[:, None] - centres[None]).sum(axis=2)
        regions[:] = distances.argmin(axis=1)
        for empty in np.setdiff1d(np.arange(count), regions):
            spare = np.bincount(regions, minlength=count)[regions] > 1
            regions[np.where(spare, distances[:, empty], np.inf).argmin()] = empty
    return found.reshape(len(features), *size)


def region_cells(regions: Array, count: int) -> Array:
    """The cells of each region, counted row by row, for `Builder.region_max`.

    regions i64 [N, *S] → i64 [N, count, cells]: of a region all its cells in order, the last one
    again and again to fill up. Raises Error for an empty region.
    """
    flat = _flat(regions, count)
    found = np.zeros((len(flat), count, flat.shape[1]), np.int64)
    for image, number in np.ndindex(*found.shape[:2]):
        (members,) = np.nonzero(flat[image] == number)
        found[image, number] = np.pad(members, (0, flat.shape[1] - len(members)), "edge")
    return found


def region_shares(regions: Array, count: int) -> Array:
    """The matrices that average over each region, for `Builder.region_sum`.

    regions i64 [N, *S] → f64 [N, count, cells], each row adding up to 1. Raises Error for an empty
    region.
    """
    member = _flat(regions, count)[:, None] == np.arange(count)[:, None]
    return np.asarray(member / member.sum(axis=2, keepdims=True))


def _flat(regions: Array, count: int) -> Array:
    """One row per image; Error unless its entries are the numbers below `count`, each there."""
    flat = regions.reshape(len(regions), -1)
    for image, row in enumerate(flat):
        if not np.array_equal(np.unique(row), np.arange(count)):
            raise Error(
                f"regions of image {image} are not numbered 0 to {count - 1}, or one is empty"
            )
    return flat


def connected_parts(labels: Array) -> Array:
    """The connected regions of equal labels: labels [*S] → i64 [*S], numbered row by row.

    Cells are connected along the axes, not across corners.
    """
    parts = np.full(labels.shape, -1, np.int64)
    for number, start in enumerate(_starts(parts)):
        parts[start] = number
        waiting = deque([start])
        while waiting:
            cell = waiting.popleft()
            for axis in range(labels.ndim):
                for step in (-1, 1):
                    other = (*cell[:axis], cell[axis] + step, *cell[axis + 1 :])
                    inside = 0 <= other[axis] < labels.shape[axis]
                    if inside and parts[other] < 0 and labels[other] == labels[cell]:
                        parts[other] = number
                        waiting.append(other)
    return parts


def _starts(parts: Array) -> Iterator[tuple[int, ...]]:
    """The first cell without a number, again and again, row by row."""
    for cell in np.ndindex(*parts.shape):
        if parts[cell] < 0:
            yield cell
