"""Unshared convolutions, pools, norms and moves of random shapes beside PyTorch, native.

Every family is drawn in 1-D, 2-D and 3-D with batches of 0, 1 and 3, on 1 to 3 threads, in both
float types. What PyTorch has no function for is written down window by window.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest

from tests.oracles import SEED, Function, Shape, agree, integer

Family = Callable[["Drawn"], tuple[list[Shape], Function, Function]]
EXTENTS = {1: (1, 2, 3, 5, 7, 11, 13), 2: (1, 2, 3, 5, 7, 11), 3: (1, 2, 3, 5)}


class Drawn:
    """A random image [N, C, *S] and the geometry of windows on it."""

    def __init__(self, family: str, number: int) -> None:
        rng = self.rng = np.random.default_rng([SEED, number, *family.encode()])
        self.batch, self.axes = (1, 3, 0)[number % 3], (2, 1, 3)[number // 3 % 3]
        self.threads = 1 + (number + number // 3) % 3
        self.dtype = ("f32", "f64")[number % 2]
        self.groups = self.one_of(1, 2)
        self.channels = self.groups * self.one_of(1, 2, 3, 17)
        self.maps = self.groups * self.one_of(1, 2, 9)
        self.kernel, self.stride, self.dilation = (self.per_axis(1, most) for most in (3, 3, 2))
        self.pads = tuple((integer(rng, 0, k - 1), integer(rng, 0, k - 1)) for k in self.kernel)
        self.reach = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        self.size = tuple(max(self.one_of(*EXTENTS[self.axes]), least) for least in self.reach)
        self.edge = str(rng.choice(["drop", "partial"]))

    def one_of(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def per_axis(self, low: int, high: int) -> Shape:
        return tuple(integer(self.rng, low, high) for _ in range(self.axes))

    @property
    def x(self) -> Shape:
        return (self.batch, self.channels, *self.size)

    @property
    def out(self) -> Shape:
        """How many windows lie inside, pads included."""
        axes = zip(self.size, self.reach, self.stride, self.pads, strict=True)
        return tuple((n + lo + hi - k) // s + 1 for n, k, s, (lo, hi) in axes)

    @property
    def pooled(self) -> Shape:
        """How many windows a pool has; with partial ones as many as start on a cell or before."""
        if self.edge == "drop":
            return self.out
        found = []
        for n, k, s, (lo, hi) in zip(self.size, self.reach, self.stride, self.pads, strict=True):
            count = -(-(n + lo + hi - k) // s) + 1
            found.append(min(count, (n + lo - 1) // s + 1))
        return tuple(found)

    @property
    def where(self) -> tuple[Any, ...]:
        return self.stride, self.pads, self.dilation

    @property
    def pool(self) -> tuple[Any, ...]:
        """What pools take after their window."""
        return self.stride, self.pads, self.edge, self.dilation

    def padded(self, t: Any, x: Any, out: Shape | None = None, fill: float = 0.0) -> Any:
        """x up to the end of the last window."""
        pads = [*self.pads]
        if out is not None:
            axes = zip(self.pads, out, self.stride, self.reach, self.size, strict=True)
            pads = [(lo, max(0, (count - 1) * s + k - lo - n)) for (lo, _), count, s, k, n in axes]
        flat = [pad for pair in reversed(pads) for pad in pair]
        return t.nn.functional.pad(x, flat, value=fill)

    def windows(self, t: Any, x: Any, out: Shape, fill: float = 0.0) -> Any:
        """What each window reads: [N, C, *out, cells]."""
        image, read = self.padded(t, x, out, fill), []
        for offset in np.ndindex(*self.kernel):
            axes = zip(offset, self.dilation, out, self.stride, strict=True)
            cuts = (slice(m * d, m * d + (count - 1) * s + 1, s) for m, d, count, s in axes)
            read.append(image[(..., *cuts)])
        return t.stack(read, -1)

    def conv(self, t: Any, x: Any, w: Any, groups: int = 1) -> Any:
        function = getattr(t, f"conv{self.axes}d")
        return function(self.padded(t, x), w, None, self.stride, 0, self.dilation, groups)

    def connections(self) -> Any:
        return self.rng.integers(0, 2, (self.maps, self.channels))


# ---------------------------------------------------------------- convolutions


def depthwise_separable(d: Drawn) -> Any:
    many, function = d.channels * d.one_of(1, 2), f"conv{d.axes}d"
    shapes = [d.x, (many, 1, *d.kernel), (d.maps, many, *(1,) * d.axes)]
    return (shapes, lambda b, x, w, p: b.separable_conv(x, w, p, *d.where),
            lambda t, x, w, p: getattr(t, function)(d.conv(t, x, w, d.channels), p))  # fmt: skip


def local(d: Drawn) -> Any:
    part, cells = d.channels // d.groups, prod(d.kernel)

    def twin(t: Any, x: Any, w: Any) -> Any:
        read = d.windows(t, x, d.out).reshape(d.batch, d.groups, 1, part, *d.out, cells)
        kernels = w.reshape(d.groups, d.maps // d.groups, *d.out, part, cells).movedim(-2, 2)
        return (read * kernels).sum((3, -1)).reshape(d.batch, d.maps, *d.out)

    shapes = [d.x, (d.maps, *d.out, part, *d.kernel)]
    return shapes, lambda b, x, w: b.local_conv(x, w, *d.where, d.groups), twin


def all_kernels(t: Any, w: Any, matrix: Any) -> Any:
    """Kernels of connections among zeros: [K, C, ...]."""
    rows, columns = map(t.tensor, np.nonzero(matrix))
    return t.zeros(*matrix.shape, *w.shape[1:], dtype=w.dtype).index_put((rows, columns), w)


def connected(d: Drawn) -> Any:
    matrix = d.connections()
    return ([d.x, (int(matrix.sum()), *d.kernel)],
            lambda b, x, w: b.connected_conv(x, w, matrix, *d.where),
            lambda t, x, w: d.conv(t, x, all_kernels(t, w, matrix)))  # fmt: skip


def connected_local(d: Drawn) -> Any:
    matrix = d.connections()

    def twin(t: Any, x: Any, w: Any) -> Any:
        kernels = all_kernels(t, w, matrix).flatten(2 + d.axes)
        return (d.windows(t, x, d.out)[:, None] * kernels).sum((2, -1))

    shapes = [d.x, (int(matrix.sum()), *d.out, *d.kernel)]
    return shapes, lambda b, x, w: b.local_conv(x, w, *d.where, connections=matrix), twin


def turns(t: Any, count: int, tile: int, phase: int) -> Any:
    """Which kernel or bias is the turn of each cell on an axis."""
    return (t.arange(count) + phase) % tile


def tiled(d: Drawn) -> Any:
    tile, phase, flip = d.per_axis(1, 3), d.per_axis(0, 4), bool(d.one_of(0, 1))

    def twin(t: Any, x: Any, w: Any) -> Any:
        w = w.flip(tuple(range(2, 2 + d.axes))) if flip else w
        total = 0
        for turn in np.ndindex(*tile):
            y = d.conv(t, x, w[(..., *turn)], d.groups)
            for axis in range(d.axes):
                mine = turns(t, d.out[axis], tile[axis], phase[axis]) == turn[axis]
                y = y * mine.reshape(-1, *(1,) * (d.axes - 1 - axis))
            total = total + y
        return total

    shapes = [d.x, (d.maps, d.channels // d.groups, *d.kernel, *tile)]
    return shapes, lambda b, x, w: b.tiled_conv(x, w, *d.where, d.groups, phase, flip), twin


def tiled_bias(d: Drawn) -> Any:
    tile, phase = d.per_axis(1, 4), d.per_axis(0, 4)

    def twin(t: Any, x: Any, c: Any) -> Any:
        for axis, (n, count, start) in enumerate(zip(d.size, tile, phase, strict=True)):
            c = c.index_select(1 + axis, turns(t, n, count, start))
        return x + c

    return [d.x, (d.channels, *tile)], lambda b, x, c: b.tiled_bias(x, c, phase), twin


# ---------------------------------------------------------------- pools


def norms(d: Drawn) -> Any:
    p = float(d.rng.choice([1, 1.5, 2, 3]))
    return ([d.x], lambda b, x: b.lp_pool(x, d.kernel, p, *d.pool),
            lambda t, x: (d.windows(t, x, d.pooled).abs() ** p).sum(-1) ** (1 / p))  # fmt: skip


def sums(d: Drawn) -> Any:
    def twin(t: Any, x: Any, w: Any) -> Any:
        return d.windows(t, x, d.pooled).sum(-1) * w.reshape(-1, *(1,) * d.axes)

    return [d.x, d.x[1:2]], lambda b, x, w: b.sum_pool(x, d.kernel, w, *d.pool), twin


def weighted_means(d: Drawn) -> Any:
    def twin(t: Any, x: Any, u: Any) -> Any:
        weights = u.exp().flatten()
        real = d.windows(t, t.ones_like(x), d.pooled)
        return (d.windows(t, x, d.pooled) * weights).sum(-1) / (real * weights).sum(-1)

    return [d.x, d.kernel], lambda b, x, u: b.weighted_pool(x, b.exp(u), *d.pool), twin


def maxima(d: Drawn) -> Any:
    return ([d.x], lambda b, x: b.max_pool(x, d.kernel, *d.pool),
            lambda t, x: d.windows(t, x, d.pooled, -np.inf).amax(-1))  # fmt: skip


def channels(d: Drawn) -> Any:
    size, kind = d.one_of(1, 2, 3), str(d.rng.choice(["max", "l2", "average"]))

    def twin(t: Any, x: Any) -> Any:
        rows = x.unflatten(1, (-1, size))
        if kind == "l2":
            return rows.norm(dim=2)
        return rows.amax(2) if kind == "max" else rows.mean(2)

    shape = (d.batch, d.channels * size, *d.size)
    return [shape], lambda b, x: b.channel_pool(x, size, kind), twin


def adaptive(d: Drawn) -> Any:
    """Bins that spread over the axes; those that cover them are PyTorch's own."""
    kind = str(d.rng.choice(["max", "average"]))
    window = tuple(integer(d.rng, 1, n) for n in d.size)
    count = tuple(integer(d.rng, 1, 5) for _ in d.size)

    def twin(t: Any, x: Any) -> Any:
        bins = []
        for place in np.ndindex(*count):
            axes = zip(place, d.size, window, count, strict=True)
            starts = [i * (n - k) // max(1, p - 1) for i, n, k, p in axes]
            cuts = (slice(a, a + k) for a, k in zip(starts, window, strict=True))
            cells = x[(..., *cuts)].flatten(2)
            bins.append(cells.amax(2) if kind == "max" else cells.mean(2))
        return t.stack(bins, -1).reshape(*d.x[:2], *count)

    return [d.x], lambda b, x: b.adaptive_pool(x, count, kind, "offset", window), twin


# ---------------------------------------------------------------- norms and moves


def groups_normalised(d: Drawn) -> Any:
    d.size = tuple(n + 1 for n in d.size)
    shapes = [d.x, d.x[1:2], d.x[1:2]]
    return (shapes, lambda b, x, *v: b.group_norm(x, d.groups, *v),
            lambda t, x, *v: t.nn.functional.group_norm(x, d.groups, *v))  # fmt: skip


def layers_normalised(d: Drawn) -> Any:
    d.size = tuple(n + 1 for n in d.size)
    count = integer(d.rng, 1, d.axes + 1)
    axes, part = tuple(range(-count, 0)), d.x[-count:]
    return ([d.x, part, part], lambda b, x, *v: b.layer_norm(x, axes, *v),
            lambda t, x, *v: t.nn.functional.layer_norm(x, part, *v))  # fmt: skip


def columns(d: Drawn) -> Any:
    turned = (0, 1, *range(d.axes + 1, 1, -1))
    return ([d.x], lambda b, x: b.vec(x),
            lambda t, x: x.permute(turned).reshape(d.batch, prod(d.x[1:])))  # fmt: skip


def maps_of_columns(d: Drawn) -> Any:
    turned = (0, 1, *range(d.axes + 1, 1, -1))
    across = [d.x[axis] for axis in turned]
    return ([(d.batch, prod(d.x[1:]))], lambda b, x: b.unvec(x, d.x[1:]),
            lambda t, x: x.reshape(across).permute(turned))  # fmt: skip


def blocks(d: Drawn) -> Any:
    def twin(t: Any, x: Any) -> Any:
        for axis, times in enumerate(d.stride):
            x = x.repeat_interleave(times, 2 + axis)
        return x

    return [d.x], lambda b, x: b.expand_blocks(x, d.stride), twin


def every_few(d: Drawn) -> Any:
    cuts = tuple(slice(None, None, step) for step in d.stride)
    return [d.x], lambda b, x: b.downsample(x, d.stride), lambda t, x: x[(..., *cuts)]


FAMILIES: dict[str, Family] = {
    function.__name__: function
    for function in (depthwise_separable, local, connected, connected_local, tiled, tiled_bias,
                     norms, sums, weighted_means, maxima, channels, adaptive, groups_normalised,
                     layers_normalised, columns, maps_of_columns, blocks, every_few)
}  # fmt: skip


@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_pytorchs(family: str, number: int) -> None:
    drawn = Drawn(family, number)
    shapes, make, twin = FAMILIES[family](drawn)
    floats = {"f32": np.float32, "f64": np.float64}[drawn.dtype]
    arrays = [drawn.rng.standard_normal(shape).astype(floats) for shape in shapes]
    agree(make, twin, arrays, drawn.dtype, threads=drawn.threads)
