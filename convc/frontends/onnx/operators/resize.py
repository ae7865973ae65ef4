"""Resize and Upsample: the op where it has the mode, else a matrix of weights for each axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np

import ir
from convc.frontends.onnx.call import Call, Emit, axis_of, fixed
from convc.frontends.onnx.errors import NodeError
from ir.dims import Dim
from ir.types import Array

OWN = ("half_pixel", "align_corners", "asymmetric")
OTHERS = ("pytorch_half_pixel", "half_pixel_symmetric", "tf_crop_and_resize",
          "tf_half_pixel_for_nn")  # fmt: skip
ROUND: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
FINEST = 1 << 16  # the largest denominator of a scale, which is stored as a float


class Axis(NamedTuple):
    """One axis to resize: its scale, where that is given, its new extent, the region of it."""

    scale: Fraction | None
    size: Dim
    region: tuple[float, float]


@dataclass
class Way:
    """How cells are interpolated."""

    mode: str
    coordinates: str
    rounding: str = "floor"
    cubic: float = -0.75
    exclude: bool = False
    antialias: bool = False
    outside: float = 0.0
    axes: dict[int, Axis] = field(default_factory=dict)


def _resize(n: Call) -> ir.Value:
    if n.opset < 11:
        return _upsample(n)
    chosen = n.attributes
    rank = len(n.shape())
    way = Way(
        chosen.choice("mode", "nearest", "linear", "cubic"),
        chosen.choice("coordinate_transformation_mode", *OWN, *OTHERS),
        chosen.choice("nearest_mode", *ROUND),
        chosen.number("cubic_coeff_a", -0.75),
        chosen.flag("exclude_outside"),
        chosen.flag("antialias"),
        chosen.number("extrapolation_value", 0.0),
    )
    axes = [axis_of(axis, rank) for axis in chosen.integers("axes") or range(rank)]
    if len(set(axes)) != len(axes):
        raise NodeError(f"axes = {axes} name one twice")
    regions = [(0.0, 1.0)] * len(axes)
    if way.coordinates == "tf_crop_and_resize":
        listed = n.constant(1, "the region").reshape(-1).tolist()
        if len(listed) != 2 * len(axes):
            raise NodeError(f"{len(listed)} numbers for a region of {len(axes)} axes")
        regions = list(zip(listed[: len(axes)], listed[len(axes) :], strict=True))
    if n.has(2) and n.constant(2, "the scales").size:
        made = _scaled(n, axes, _scales(n.constant(2, "the scales"), len(axes)))
    else:
        made = _sized(n, axes)
    way.axes = {
        axis: Axis(scale, size, region)
        for axis, (scale, size), region in zip(axes, made, regions, strict=True)
        if size != n.shape()[axis]
        or way.coordinates == "tf_crop_and_resize"
        or scale not in (None, 1)
    }
    return _applied(n, way)


def _upsample(n: Call) -> ir.Value:
    """Up to opset 10: cell i of the result lies at i / scale."""
    rank = len(n.shape())
    mode = n.attributes.choice("mode", "nearest", "linear", "bilinear")
    stored = n.attributes.numbers("scales")
    listed = n.constant(1, "the scales") if stored is None else np.array(stored)
    made = _scaled(n, range(rank), _scales(listed, rank))
    way = Way("nearest" if mode == "nearest" else "linear", "asymmetric")
    way.axes = {
        axis: Axis(scale, size, (0.0, 1.0)) for axis, (scale, size) in enumerate(made) if scale != 1
    }
    return _applied(n, way)


def _scales(listed: Array, count: int) -> list[Fraction]:
    numbers = [float(scale) for scale in listed.reshape(-1)]
    if len(numbers) != count:
        raise NodeError(f"{len(numbers)} scales for {count} axes")
    if not all(math.isfinite(scale) and 0 < scale < FINEST for scale in numbers):
        raise NodeError(f"scales {numbers} must be positive")
    return [Fraction(scale).limit_denominator(FINEST) for scale in numbers]


def _scaled(
    n: Call, axes: Sequence[int], scales: Sequence[Fraction]
) -> list[tuple[Fraction | None, Dim]]:
    """New extents from scales, rounded down."""
    pairs = zip(axes, scales, strict=True)
    return [(s, n.shape()[axis] * s.numerator // s.denominator) for axis, s in pairs]


def _sized(n: Call, axes: Sequence[int]) -> list[tuple[Fraction | None, Dim]]:
    """New extents as given, or so that all axes have one scale."""
    sizes = n.extents(3, "the sizes")
    if len(sizes) != len(axes):
        raise NodeError(f"{len(sizes)} sizes for {len(axes)} axes")
    policy = n.attributes.choice("keep_aspect_ratio_policy", "stretch", "not_larger", "not_smaller")
    if policy == "stretch":
        return [(None, size) for size in sizes]
    old = fixed([n.shape()[axis] for axis in axes])
    ratios = [Fraction(new, m) for new, m in zip(fixed(sizes), old, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [(scale, math.floor(scale * m + Fraction(1, 2))) for m in old]


def _applied(n: Call, way: Way) -> ir.Value:
    """The op for spatial axes and the modes it has; else one product with a matrix per axis."""
    x = n.x()
    coordinates = way.coordinates
    whole = all(a.scale is None or _is_whole(x.shape[i], a) for i, a in way.axes.items())
    single = any(axis.size == 1 for axis in way.axes.values())
    if (coordinates == "pytorch_half_pixel" and not single) or (
        coordinates == "half_pixel_symmetric" and whole
    ):
        coordinates = "half_pixel"
    fits = coordinates in OWN and (coordinates != "align_corners" or whole)
    plain = way.mode != "cubic" and not way.exclude and not way.antialias
    plain = plain and all(_is_floor(x.shape[i], axis) for i, axis in way.axes.items())
    if not way.axes:
        return x
    if not fits or not plain or min(way.axes) < 2:
        return _by_matrices(n, x, way)
    spatial = range(2, x.type.rank)
    if any(axis.scale is None for axis in way.axes.values()):
        size = [way.axes[axis].size if axis in way.axes else x.shape[axis] for axis in spatial]
        return n.b.resize(x, size, (), way.mode, coordinates, way.rounding)
    factors = [way.axes[axis].scale or 1 if axis in way.axes else 1 for axis in spatial]
    return n.b.resize(x, (), factors, way.mode, coordinates, way.rounding)


def _is_whole(extent: Dim, axis: Axis) -> bool:
    """Whether the scale makes a whole number of cells."""
    assert axis.scale is not None
    return axis.scale.denominator == 1 or (
        isinstance(extent, int) and (extent * axis.scale).denominator == 1
    )


def _is_floor(extent: Dim, axis: Axis) -> bool:
    """Whether the new extent is the old one times the scale, rounded down."""
    scale = axis.scale
    return scale is None or axis.size == extent * scale.numerator // scale.denominator


def _by_matrices(n: Call, x: ir.Value, way: Way) -> ir.Value:
    outside = np.zeros((1,) * x.type.rank, bool)
    for at, axis in way.axes.items():
        (old, new) = fixed((x.shape[at], axis.size))
        if not old or not new:
            raise NodeError(f"axis {at} of {old} cells to {new}; there must be one at least")
        n.budget(8 * old * new)
        places = _places(way, axis, old, new)
        matrix = _weights(way, places, float(axis.scale or Fraction(new, old)), old)
        beyond = (places < 0) | (places > old - 1)
        if way.coordinates == "tf_crop_and_resize":
            matrix[beyond] = 0
            outside = outside | beyond.reshape(-1, *(1,) * (x.type.rank - 1 - at))
        x = _product(n, x, at, matrix)
    if outside.any() and way.outside:
        filler = np.where(outside, way.outside, 0).astype(x.dtype.numpy)
        x = x + n.b.weight(n.b.fresh("outside"), filler)
    return x


def _product(n: Call, x: ir.Value, axis: int, matrix: Array) -> ir.Value:
    """Sums along an axis, weighted by the rows of a matrix."""
    weights = n.b.weight(n.b.fresh("weights"), matrix.astype(x.dtype.numpy))
    last = x.type.rank - 1
    order = tuple(last if i == axis else axis if i == last else i for i in range(last + 1))
    turned = x if axis == last else n.b.transpose(x, order)
    rows = n.b.reshape(turned, (1, *turned.shape)) if last == 0 else turned
    y = n.b.matmul(rows, weights, transpose_b=True)
    y = n.b.reshape(y, y.shape[1:]) if last == 0 else y
    return y if axis == last else n.b.transpose(y, order)


def _places(way: Way, axis: Axis, old: int, new: int) -> Array:
    """Where the new cells lie among the old ones."""
    scale = float(axis.scale or Fraction(new, old))
    length = scale * old
    i = np.arange(new, dtype=np.float64)
    start, end = axis.region
    match way.coordinates:
        case "asymmetric":
            return i / scale
        case "align_corners":
            return i * 0 if length == 1 else i * (old - 1) / (length - 1)
        case "tf_crop_and_resize":
            if length == 1:
                return i * 0 + (start + end) * (old - 1) / 2
            return start * (old - 1) + i * (end - start) * (old - 1) / (length - 1)
        case "tf_half_pixel_for_nn":
            return (i + 0.5) / scale
        case "pytorch_half_pixel" if length == 1:
            return i - 0.5
        case "half_pixel_symmetric":
            return old / 2 * (1 - new / length) + (i + 0.5) / scale - 0.5
    return (i + 0.5) / scale - 0.5


def _weights(way: Way, places: Array, scale: float, old: int) -> Array:
    """What each old cell counts for each new one: [new, old]. Beyond the edge lies its cell."""
    if way.mode == "nearest":
        taps = ROUND[way.rounding](places)[:, None].astype(np.int64)
        shares = np.ones(taps.shape)
    else:
        shrink = min(scale, 1.0) if way.antialias else 1.0
        reach = 1 if way.mode == "linear" else 2
        first = math.floor(-reach / shrink) + 1
        low = np.ceil(places)[:, None] - 1
        taps = (low + np.arange(first, 2 - first)).astype(np.int64)
        distance = np.abs(taps - places[:, None]) * shrink
        shares = _triangle(distance) if reach == 1 else _cubic(distance, way.cubic)
        if way.antialias:
            shares = shares / shares.sum(1, keepdims=True)
    if way.exclude:
        shares = np.where((taps >= 0) & (taps < old), shares, 0)
        shares = shares / shares.sum(1, keepdims=True)
    matrix = np.zeros((len(places), old))
    rows = np.broadcast_to(np.arange(len(places))[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, old - 1)), shares)
    return matrix


def _triangle(distance: Array) -> Array:
    return np.asarray(np.maximum(1 - distance, 0))


def _cubic(d: Array, a: float) -> Array:
    """The piecewise cubic kernel of Keys 1981."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


RESIZES: dict[str, Emit] = {"Resize": _resize, "Upsample": _upsample}
