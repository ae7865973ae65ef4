"""What a convolution by transforms costs: the measure by which tiles, and algorithms, are chosen.

Cycles are those of whole vectors, counted from the transforms and products and scaled to what a
Zen 5 core needs; weights that exceed the cache are read from memory at each use.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from convc.algorithms.fft.lengths import cycles
from convc.cost import CLOCK, L2, MEMORY, stream_bytes

if TYPE_CHECKING:
    from convc.algorithms.fft.tiling import Tiling

TILES = 4  # that share each weight read, where inputs are many
FEW = 4  # channels that are not yet many
GATHER = 0.5  # cycles to read or write one lane elsewhere than its neighbours
SPILL = 1.3  # slowness of transforms that leave the cache


def seconds(tiling: Tiling, item: int, gradient: bool = False, packed: bool = True) -> float:
    """On one thread; ``packed``: the spectra of the weights are at hand."""
    if tiling.across:
        parts = _across(tiling, item)
    elif tiling.depthwise:
        parts = _depthwise(tiling, item, gradient)
    else:
        parts = _gradient(tiling, item) if gradient else _mixing(tiling, item)
    if not packed and not gradient:
        parts += prod(tiling.weight_blocks) * _forth(tiling, item) * 1.5 / CLOCK
    return parts + 0.5 * item * (prod(tiling.shape.image) + prod(tiling.shape.result)) / MEMORY


def _tiles(tiling: Tiling) -> int:
    return tiling.shape.read[0] * prod(tiling.grid)


def _depthwise(tiling: Tiling, item: int, gradient: bool) -> float:
    blocks, tiles = tiling.weight_blocks[0], _tiles(tiling)
    points, forth, back = prod(tiling.spectrum) / 2, _forth(tiling, item), _back(tiling, item)
    vectors = blocks * prod(tiling.spectrum) * tiling.lanes * item
    if gradient:
        each = blocks * (tiles * (2 * forth + 4 * points) + back)
        return each / CLOCK + 2 * vectors / stream_bytes(vectors)
    return blocks * tiles * (forth + back + points) / CLOCK + vectors / stream_bytes(vectors)


def _mixing(tiling: Tiling, item: int) -> float:
    blocks, inner = tiling.weight_blocks
    points = prod(tiling.spectrum) / 2
    groups, products = _tiles(tiling), _tiles(tiling) * blocks * inner * points * 2 / CLOCK
    if inner > FEW:
        along = tiling.grid[1] if tiling.grid[1] > 1 else tiling.shape.read[0]
        groups = groups // along * -(-along // TILES)
    one = inner * prod(tiling.spectrum) * tiling.lanes * item
    rate = stream_bytes(one if one < L2 // 2 else one * blocks)
    weights = groups * blocks * one / rate
    back = _tiles(tiling) * blocks * _back(tiling, item) / CLOCK
    return _image(tiling, item) + max(products, weights) + back


def _across(tiling: Tiling, item: int) -> float:
    shape, (_, across), points = tiling.shape, tiling.grid, prod(tiling.spectrum) / 2
    vectors = _tiles(tiling) // across * -(-across // tiling.lanes)
    sums = shape.out * prod(tiling.spectrum) * tiling.lanes * item
    products = shape.out * max(points * 3, 2 * sums / shape.out / stream_bytes(sums) * CLOCK)
    whole = shape.inner * (_forth(tiling, item) + products) + shape.out * _back(tiling, item)
    cells = shape.inner * tiling.axes[0].points * tiling.axes[1].points
    cells += shape.out * tiling.axes[0].outputs * tiling.axes[1].outputs
    return (vectors * whole + _tiles(tiling) * cells * GATHER) / CLOCK


def _gradient(tiling: Tiling, item: int) -> float:
    blocks, inner = tiling.weight_blocks
    points, tiles = prod(tiling.spectrum) / 2, _tiles(tiling)
    sums = inner * prod(tiling.spectrum) * tiling.lanes * item
    rate = stream_bytes(sums if sums < L2 // 2 else sums * blocks)
    products = tiles * blocks * max(inner * points * 4 / CLOCK, 2 * sums / rate)
    forth = tiles * blocks * _forth(tiling, item)
    back = blocks * inner * _back(tiling, item)
    return _image(tiling, item) + products + (forth + back) / CLOCK


def _image(tiling: Tiling, item: int) -> float:
    """The spectra of an image, in memory."""
    channels, (_, across) = tiling.shape.inner, tiling.grid
    size = _tiles(tiling) * channels * prod(tiling.spectrum) * item
    stored = (1 + tiling.weight_blocks[0]) * size / stream_bytes(size)
    if tiling.image_block > 1:
        return _tiles(tiling) * -(-channels // tiling.lanes) * _forth(tiling, item) / CLOCK + stored
    vectors = _tiles(tiling) // across * -(-across // tiling.lanes) * channels
    cells = _tiles(tiling) * channels * 2 * prod(tiling.spectrum) * GATHER
    return (vectors * _forth(tiling, item) + cells) / CLOCK + stored


def _forth(tiling: Tiling, item: int) -> float:
    """Cycles to transform a vector of tiles."""
    return _plane(tiling, -(-len(tiling.axes[0].inside) // 2), item)


def _back(tiling: Tiling, item: int) -> float:
    """Cycles to transform a vector of tiles back."""
    return _plane(tiling, -(-tiling.axes[0].outputs // 2), item)


def _plane(tiling: Tiling, lines: int, item: int) -> float:
    rows, columns = (axis.points for axis in tiling.axes)
    slow = SPILL if rows * columns * tiling.lanes * item > 0.6 * L2 else 1.0
    return (lines * cycles(columns, even=True) + tiling.columns * cycles(rows)) * slow
