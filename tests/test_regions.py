"""Regions of images: clusters of strong features, pooled over natively; parts of a labelling."""

from __future__ import annotations

import numpy as np
import pytest

import convc
import ir
from convc.regions import connected_parts, feature_regions, region_cells, region_shares
from ir.types import Array


def blobs(rng: np.random.Generator, centres: list[tuple[int, int]]) -> Array:
    """Weak noise [3, 9, 12] with strong features around these cells."""
    features = 0.01 * rng.standard_normal((3, 9, 12))
    for row, column in centres:
        features[:, row - 1 : row + 2, column - 1 : column + 2] += 5
    return features


def test_regions_surround_the_strong_features_of_each_image() -> None:
    rng = np.random.default_rng(0)
    images = np.stack([blobs(rng, [(2, 9), (6, 2)]), blobs(rng, [(7, 7), (1, 1)])])
    regions = feature_regions(images, 2)
    assert regions.shape == (2, 9, 12)
    assert (regions[0, 2, 9], regions[0, 6, 2]) == (0, 1)  # numbered by row, then column
    assert (regions[1, 1, 1], regions[1, 7, 7]) == (0, 1)
    rows, columns = np.indices((9, 12))
    near = np.hypot(rows - 2, columns - 9) < np.hypot(rows - 6, columns - 2) - 0.1
    assert np.all(regions[0][near] == 0)


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_no_region_is_empty(count: int) -> None:
    rng = np.random.default_rng(count)
    for features in (rng.standard_normal((3, 2, 3, 4)), np.zeros((1, 2, 3, 4))):
        regions = feature_regions(features, count)
        for image in regions:
            assert np.array_equal(np.unique(image), np.arange(count))


def test_regions_of_every_image_are_pooled_over_natively() -> None:
    rng = np.random.default_rng(1)
    count, (batch, channels, *size) = 3, (2, 5, 4, 7)
    x = rng.standard_normal((batch, channels, *size)).astype(np.float32)
    regions = feature_regions(x, count)
    b = ir.Builder("regions")
    v = b.input("x", "f32[N, 5, 4, 7]")
    b.output("largest", b.region_max(v, b.input("cells", "i64[N, 3, 28]")))
    b.output("mean", b.region_sum(v, b.input("shares", "f32[N, 3, 28]")))
    graph = ir.vjp(b.build(), ["x"])
    inputs = {
        "x": x,
        "cells": region_cells(regions, count),
        "shares": region_shares(regions, count).astype(np.float32),
        "grad_largest": rng.standard_normal((batch, channels, count)).astype(np.float32),
        "grad_mean": rng.standard_normal((batch, channels, count)).astype(np.float32),
    }
    got, same = convc.compile(graph).run(inputs), ir.interpret(graph, inputs)
    grad = np.zeros_like(x)
    for n, c, q in np.ndindex(batch, channels, count):
        members = np.argwhere(regions[n] == q)
        values = np.array([x[(n, c, *cell)] for cell in members])
        np.testing.assert_array_equal(got["largest"][n, c, q], values.max())
        np.testing.assert_allclose(got["mean"][n, c, q], values.mean(), rtol=1e-5, atol=1e-6)
        grad[(n, c, *members[values.argmax()])] += inputs["grad_largest"][n, c, q]
        for cell in members:
            grad[(n, c, *cell)] += inputs["grad_mean"][n, c, q] / len(members)
    for results in (got, same):
        np.testing.assert_allclose(results["grad_x"], grad, rtol=1e-5, atol=1e-6)


def test_learned_regions_are_a_matrix_with_a_gradient() -> None:
    rng = np.random.default_rng(2)
    x, p = rng.standard_normal((3, 2, 4, 5)), rng.standard_normal((6, 20))
    g = rng.standard_normal((3, 2, 6))
    b = ir.Builder("regions")
    operands = b.input("x", ir.TensorType.of(x)), b.input("p", ir.TensorType.of(p))
    b.output("y", b.region_sum(*operands))
    got = convc.compile(ir.vjp(b.build())).run({"x": x, "p": p, "grad_y": g})
    flat = x.reshape(3, 2, 20)
    np.testing.assert_allclose(got["y"], np.einsum("ncp,qp->ncq", flat, p), rtol=1e-12)
    np.testing.assert_allclose(got["grad_p"], np.einsum("ncq,ncp->qp", g, flat), rtol=1e-12)
    np.testing.assert_allclose(
        got["grad_x"].reshape(3, 2, 20), np.einsum("ncq,qp->ncp", g, p), rtol=1e-12
    )


@pytest.mark.parametrize("kind", ["max", "average"])
def test_given_regions_may_overlap_and_differ_in_size(kind: str) -> None:
    x = np.random.default_rng(3).standard_normal((2, 3, 4, 4))
    regions = [[0, 1, 4], [5, 6, 9, 10], [15], [0, 15]]
    b = ir.Builder("regions")
    b.output("y", b.region_pool(b.input("x", "f64[N, 3, 4, 4]"), regions, kind))
    got = convc.compile(b.build())(x)
    reduce = {"max": np.max, "average": np.mean}[kind]
    want = np.stack([reduce(x.reshape(2, 3, 16)[..., cells], axis=2) for cells in regions], axis=2)
    np.testing.assert_allclose(got, want, rtol=1e-13)


def test_parts_are_connected_along_the_axes_only() -> None:
    labels = np.array([[0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0]])
    parts = connected_parts(labels)
    assert parts.tolist() == [[0, 0, 1, 1], [2, 0, 0, 1], [2, 2, 0, 0], [3, 2, 2, 0]]
    assert connected_parts(np.zeros((0, 3), np.int64)).shape == (0, 3)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_parts_are_scipys(axes: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    labels = np.random.default_rng(axes).integers(0, 3, (7, 5, 6)[:axes])
    parts = connected_parts(labels)
    for value in range(3):
        expected, count = ndimage.label(labels == value)
        pairs = set(zip(expected[labels == value], parts[labels == value], strict=True))
        assert len(pairs) == count == len({part for _, part in pairs})


def test_wrong_regions_are_refused() -> None:
    with pytest.raises(convc.Error, match="no 7 regions of 6 cells"):
        feature_regions(np.zeros((1, 1, 2, 3)), 7)
    for function in (region_cells, region_shares):
        with pytest.raises(convc.Error, match="image 0 are not numbered 0 to 2, or one is empty"):
            function(np.array([[0, 2, 2]]), 3)
    b = ir.Builder("regions")
    x = b.input("x", "f32[1, 2, 4]")
    for regions, reason in (
        ([[0], []], "one that is empty"),
        ([], "no regions"),
        ([1, 2], "a region must be a sequence"),
        ([[0, 4]], "4 is not a cell, one of 0 to 4 - 1"),
        ([[-1]], "-1 is not a cell"),
        ([["a"]], "'a' is not a cell"),
    ):
        with pytest.raises(ir.AttributeValueError, match=reason):
            b.region_pool(x, regions)  # type: ignore[arg-type]
    with pytest.raises(ir.AttributeValueError, match="kind = 'sum' is not max or average"):
        b.region_pool(x, [[0]], "sum")
    with pytest.raises(ir.ShapeError, match="cells must be"):
        b.region_max(x, b.input("cells", "i64[4]"))
