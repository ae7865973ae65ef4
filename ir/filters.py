"""Filters made by hand, as arrays to give to the builder: Gabor functions, lines, edges, waves.

Images have rows downwards: x is the column coordinate, y the row coordinate. Kernels are
[K, 1, *k], for one input channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ir.types import Array


@dataclass(frozen=True)
class Gabor:
    """α·exp(-βx·x'² - βy·y'²)·cos(f·x' + φ) in coordinates x', y' turned by τ about (x0, y0).

    The weights of a simple cell of the visual cortex: Goodfellow et al. 2016, eq 9.16 to 9.18.
    """

    beta_x: float
    beta_y: float
    frequency: float
    phase: float = 0.0
    orientation: float = 0.0
    x0: float = 0.0
    y0: float = 0.0
    scale: float = 1.0

    def __call__(self, x: Array, y: Array) -> Array:
        """The function at points of an image, float64."""
        cos, sin = math.cos(self.orientation), math.sin(self.orientation)
        dx, dy = np.asarray(x, float) - self.x0, np.asarray(y, float) - self.y0
        along, across = dx * cos + dy * sin, -dx * sin + dy * cos
        envelope = np.exp(-self.beta_x * along**2 - self.beta_y * across**2)
        wave = np.cos(self.frequency * along + self.phase)
        return np.asarray(self.scale * envelope * wave)

    def on(self, xs: Sequence[float] | Array, ys: Sequence[float] | Array) -> Array:
        """The function on a grid: [rows, columns] for row coordinates ys, column coordinates xs."""
        return self(np.asarray(xs)[None, :], np.asarray(ys)[:, None])

    def kernel(self, size: int) -> Array:
        """The function on size by size pixels, a unit apart, with (0, 0) in the middle."""
        pixels = np.arange(size) - (size - 1) / 2
        return self.on(pixels, pixels)

    def quadrature(self) -> tuple[Gabor, Gabor]:
        """This filter, and the same a quarter of a wave further: what a complex cell adds up."""
        return self, replace(self, phase=self.phase + math.pi / 2)


def bank(*kernels: Array, dtype: str = "float32") -> Array:
    """Kernels [*k] of one shape as the weights [K, 1, *k] of a convolution."""
    return np.stack([np.asarray(kernel, dtype) for kernel in kernels])[:, None]


def quadrature_bank(gabors: Iterable[Gabor], size: int, dtype: str = "float32") -> Array:
    """The weights [2·K, 1, size, size] of K complex cells, the two of a pair side by side."""
    pairs = (half for gabor in gabors for half in gabor.quadrature())
    return bank(*(half.kernel(size) for half in pairs), dtype=dtype)


def fourier_bank(frame: int, dtype: str = "float32") -> Array:
    """Pairs [2·(frame//2 + 1), 1, frame] of cosine and sine: their norm is the short-time spectrum.

    As complex cells with a stride of `hop`, they turn a waveform [N, 1, T] into a spectrogram
    [N, frequencies, times]: the magnitudes of a discrete Fourier transform without a window.
    """
    turns = np.outer(np.arange(frame // 2 + 1), np.arange(frame)) * (2 * math.pi / frame)
    return bank(*(wave for row in turns for wave in (np.cos(row), -np.sin(row))), dtype=dtype)


def outer(*factors: Sequence[float] | Array) -> Array:
    """The separable kernel that 1-D kernels make, one per axis: k[a, b, …] = f0[a]·f1[b]·…"""
    kernel = np.ones(())
    for factor in factors:
        kernel = np.multiply.outer(kernel, np.asarray(factor))
    return kernel


EDGE = np.array([-1.0, 1.0])  # the difference of two neighbours


def vertical_edge() -> Array:
    """[1, 2]: right minus left."""
    return EDGE[None, :].copy()


def horizontal_edge() -> Array:
    """[2, 1]: below minus above."""
    return EDGE[:, None].copy()


def horizontal_line(size: int = 3, background: float = 0.0) -> Array:
    """[size, size] with 1 in the middle row and `background` around it."""
    return vertical_line(size, background).T.copy()


def vertical_line(size: int = 3, background: float = 0.0) -> Array:
    """[size, size] with 1 in the middle column and `background` around it."""
    kernel = np.full((size, size), background)
    kernel[:, size // 2] = 1.0
    return kernel


def slash(size: int = 2, background: float = 0.0) -> Array:
    """[size, size] with 1 on the diagonal that rises to the right."""
    return backslash(size, background)[::-1].copy()


def backslash(size: int = 2, background: float = 0.0) -> Array:
    """[size, size] with 1 on the diagonal that falls to the right."""
    return np.where(np.eye(size) > 0, 1.0, background)


def cross(size: int = 3, background: float = -1.0) -> Array:
    """[size, size] with 1 in the middle row and column and `background` elsewhere."""
    return np.maximum(horizontal_line(size, background), vertical_line(size, background))


Grid = list[list[Gabor]]
WIDTH, WAVE = 3.0, 10.0  # β and f of the grids, for images on [-1, 1]²


def radiating_grid(count: int = 8) -> Grid:
    """Gabor functions that move with their place in the grid and look away from its middle.

    The left of figure 9.18 of Goodfellow et al. 2016; the next two are its centre and right.
    """
    places = np.linspace(-1, 1, count).tolist()
    return [
        [Gabor(WIDTH, WIDTH, WAVE, 0.0, math.atan2(y0, x0), x0, y0) for x0 in places]
        for y0 in places
    ]


def width_grid(count: int = 8) -> Grid:
    """Gabor functions that grow wider from left to right and higher from top to bottom."""
    falling = (WIDTH * np.geomspace(8, 0.5, count)).tolist()
    return [[Gabor(beta_x, beta_y, WAVE) for beta_x in falling] for beta_y in falling]


def wave_grid(count: int = 8) -> Grid:
    """Gabor functions whose frequency rises from top to bottom and phase from left to right."""
    frequencies = np.linspace(0.2, 2, count) * WAVE
    phases = np.linspace(0, 2 * math.pi, count, endpoint=False).tolist()
    return [[Gabor(WIDTH, WIDTH, f, phase) for phase in phases] for f in frequencies.tolist()]


def sampled(grid: Grid, size: int = 32) -> Array:
    """The images of a grid of Gabor functions on [-1, 1]²: [rows, columns, size, size]."""
    pixels = np.linspace(-1, 1, size)
    return np.array([[gabor.on(pixels, pixels) for gabor in row] for row in grid])
