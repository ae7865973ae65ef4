"""Hand-made filters and the cells that they are for."""

import math
from itertools import pairwise

import numpy as np
import pytest

import ir
from ir import filters
from ir.filters import Gabor

WIDE = Gabor(beta_x=0.05, beta_y=0.05, frequency=1.0, orientation=0.4)


def wave(gabor, size, phase):
    """An image of the wave that a filter looks for."""
    pixels = np.arange(size) - (size - 1) / 2
    along = pixels[None] * math.cos(gabor.orientation) + pixels[:, None] * math.sin(
        gabor.orientation
    )
    return np.cos(gabor.frequency * along + phase)


def responses(image, w, cells):
    b = ir.Builder()
    x = b.input("x", f"f64[N, 1, {image.shape[-2]}, {image.shape[-1]}]")
    b.output("y", cells(b, x, b.weight("w", w)))
    return ir.interpret(b.build(), {"x": image.reshape(-1, 1, *image.shape[-2:])})["y"]


def test_a_gabor_function_is_a_wave_in_an_envelope():
    gabor = Gabor(0.2, 0.1, 1.5, phase=0.3, orientation=0.7, x0=1.0, y0=-2.0, scale=2.0)
    assert gabor(1.0, -2.0) == pytest.approx(2 * math.cos(0.3))
    x, y = 1.0 + math.cos(0.7), -2.0 + math.sin(0.7)  # one step along the wave
    assert gabor(x, y) == pytest.approx(2 * math.exp(-0.2) * math.cos(1.5 + 0.3))
    x, y = 1.0 - math.sin(0.7), -2.0 + math.cos(0.7)  # and one across
    assert gabor(x, y) == pytest.approx(2 * math.exp(-0.1) * math.cos(0.3))


def test_rows_are_the_y_axis():
    image = Gabor(0.0, 0.0, math.pi).on([0, 1, 2], [0, 1])
    assert image.shape == (2, 3)
    np.testing.assert_allclose(image, [[1, -1, 1], [1, -1, 1]], atol=1e-15)
    assert np.array_equal(Gabor(1, 1, 1).kernel(3), Gabor(1, 1, 1).on([-1, 0, 1], [-1, 0, 1]))


def test_kernels_are_separable_along_the_axes_and_not_when_turned():
    def rank(gabor):
        return np.linalg.matrix_rank(gabor.kernel(9), tol=1e-9)

    assert rank(Gabor(0.2, 0.1, 1.5)) == 1
    assert rank(Gabor(0.2, 0.1, 1.5, orientation=math.pi / 2)) == 1
    assert rank(Gabor(0.1, 0.1, 1.5, orientation=0.6)) == 2
    assert rank(Gabor(0.2, 0.1, 1.5, orientation=0.6)) > 2


def test_a_simple_cell_prefers_its_phase_and_a_complex_cell_has_none():
    size, phases = 31, np.linspace(0, 2 * math.pi, 13)
    images = np.stack([wave(WIDE, size, phase) for phase in phases])
    w = filters.quadrature_bank([WIDE], size, "float64")
    simple = responses(images, w, lambda b, x, w: b.conv(x, w))[:, 0, 0, 0]
    cells = responses(images, w, lambda b, x, w: b.complex_cells(x, w)).ravel()
    assert simple.argmax() in (0, 12) and simple.argmin() == 6
    assert simple.min() < -0.9 * simple.max()
    assert np.ptp(cells) < 1e-4 * cells.max()
    negated = responses(-images, w, lambda b, x, w: b.complex_cells(x, w)).ravel()
    assert np.array_equal(cells, negated)


def test_the_gradient_of_a_complex_cell_is_zero_where_it_is_silent():
    b = ir.Builder()
    x = b.input("x", "f64[1, 1, 5, 5]")
    w = b.weight("w", filters.quadrature_bank([WIDE], 3, "float64"))
    b.output("y", b.complex_cells(x, w, stride=2, pad="same"))
    back = ir.vjp(b.build(), ["x"])
    results = ir.interpret(back, {"x": np.zeros((1, 1, 5, 5)), "grad_y": np.ones((1, 1, 3, 3))})
    assert not results["y"].any() and not results["grad_x"].any()


def test_complex_cells_need_pairs_of_kernels():
    b = ir.Builder()
    with pytest.raises(ir.ShapeError, match="3 channels are no whole groups of 2"):
        b.complex_cells(b.input("x", "f32[1, 1, 5, 5]"), b.input("w", "f32[3, 1, 3, 3]"))


def test_quadratic_cells_are_sums_of_squares_and_complex_cells_their_roots():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 7, 7))
    w = filters.quadrature_bank([WIDE, Gabor(0.2, 0.1, 1.0)], 3, "float64")
    pairs = np.kron(np.eye(2), [[1.0, 1.0]])
    energy = responses(
        image, w, lambda b, x, w: b.quadratic_cells(x, w, b.weight("mix", pairs), pad="same")
    )
    cells = responses(image, w, lambda b, x, w: b.complex_cells(x, w, pad="same"))
    np.testing.assert_allclose(np.sqrt(energy), cells, rtol=1e-12)
    single = responses(image, w, lambda b, x, w: b.conv(x, w, pad="same"))
    mix = rng.standard_normal((3, 4))
    mixed = responses(
        image, w, lambda b, x, w: b.quadratic_cells(x, w, b.weight("mix", mix), pad="same")
    )
    np.testing.assert_allclose(mixed, np.einsum("kr,nrij->nkij", mix, single**2), atol=1e-12)
    b = ir.Builder()
    x, w = b.input("x", "f32[1, 1, 5, 5]"), b.input("w", "f32[3, 1, 3, 3]")
    with pytest.raises(ir.ShapeError, match=r"%mix is f32\[3\], but mix must be \[K, R\]"):
        b.quadratic_cells(x, w, b.input("mix", "f32[3]"))


@pytest.mark.parametrize("frame", [7, 8])
def test_a_spectrogram_is_the_norm_of_fourier_pairs(frame):
    signal = np.random.default_rng(1).standard_normal((2, 1, 33))
    waves = filters.fourier_bank(frame, "float64")
    b = ir.Builder()
    x = b.input("x", "f64[2, 1, 33]")
    b.output("y", b.complex_cells(x, b.weight("w", waves), stride=3))
    got = ir.interpret(b.build(), {"x": signal})["y"]
    frames = np.lib.stride_tricks.sliding_window_view(signal[:, 0], frame, 1)[:, ::3]
    np.testing.assert_allclose(got, np.abs(np.fft.rfft(frames)).swapaxes(1, 2), atol=1e-12)


def test_detectors_respond_most_to_what_they_are_called_after():
    detectors = {
        "horizontal": filters.horizontal_line(3, -1.0),
        "vertical": filters.vertical_line(3, -1.0),
        "slash": filters.slash(3, -1.0),
        "backslash": filters.backslash(3, -1.0),
        "cross": filters.cross(3),
    }
    w = filters.bank(*detectors.values(), dtype="float64")
    assert w.shape == (5, 1, 3, 3)
    scores = np.einsum("aij,bij->ab", w[:, 0], w[:, 0])
    assert np.array_equal(scores.argmax(axis=1), range(5))
    assert np.array_equal(filters.cross(3), [[-1, 1, -1], [1, 1, 1], [-1, 1, -1]])
    assert np.array_equal(filters.slash(), [[0, 1], [1, 0]])
    assert np.array_equal(filters.backslash(), [[1, 0], [0, 1]])


def test_edges_are_differences_of_neighbours():
    image = np.arange(12.0).reshape(1, 3, 4) ** 2
    across = filters.bank(filters.vertical_edge(), dtype="float64")
    down = filters.bank(filters.horizontal_edge(), dtype="float64")
    assert np.array_equal(responses(image, across, ir.Builder.conv)[:, 0], np.diff(image, axis=2))
    assert np.array_equal(responses(image, down, ir.Builder.conv)[:, 0], np.diff(image, axis=1))


def test_grids_vary_what_they_say():
    radiating = filters.radiating_grid(5)
    for row in radiating:
        for gabor in row:
            assert math.atan2(gabor.y0, gabor.x0) == gabor.orientation
    widths = filters.width_grid(4)
    assert all(a.beta_x > b.beta_x for row in widths for a, b in pairwise(row))
    assert all(a[0].beta_y > b[0].beta_y for a, b in pairwise(widths))
    waves = filters.wave_grid(4)
    assert [row[0].frequency for row in waves] == sorted(row[0].frequency for row in waves)
    assert [g.phase for g in waves[0]] == sorted(g.phase for g in waves[0])
    images = filters.sampled(waves, 16)
    assert images.shape == (4, 4, 16, 16) and images.dtype == np.float64
    pixels = np.linspace(-1, 1, 16)
    assert np.array_equal(images[1, 2], waves[1][2].on(pixels, pixels))


def test_outer_products_of_any_number_of_axes():
    assert np.array_equal(filters.outer([1, 2], [3, 4, 5]), np.outer([1, 2], [3, 4, 5]))
    assert filters.outer([1, 2], [1, 1], [0, 1, 2]).shape == (2, 2, 3)
