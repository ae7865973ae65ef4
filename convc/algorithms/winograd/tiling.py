"""A convolution cut into tiles for minimal filtering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import prod

from convc.algorithms.convolution import Convolution
from convc.algorithms.geometry import Line, Lines
from convc.algorithms.winograd.toom_cook import Filtering, filtering
from convc.cost import CLOCK, UNITS, stream_bytes
from convc.pooling import Pool
from convc.schedule import segments

ENOUGH_TASKS = 8  # for a few threads to share a step evenly
SEEN = 0.1  # of the time of fetching, what products do not hide
LEAST_HALF = 2  # blocks of output channels of a task
LEAST_OUTPUTS = 8  # blocks of output channels whose products outweigh the input's transform
LARGEST = 8  # points per axis: beyond, rounding errors grow too fast
IDENTITY = Filtering(*(((Fraction(1),),),) * 3)


@dataclass(frozen=True)
class Axis:
    """One axis as convolutions of unit stride: one for each phase of the stride, or for each part
    of a long kernel; and their sum.

    Output q stands at ``out[0] + out[1] * q``; tap t of phase p reads ``base + shift * p + scale *
    (q + pitch * t)`` and the weight ``weight[0] + weight[1] * p + weight[2] * t``, which is zero
    beyond the kernel's ``extent``. Of a dilated axis (``pitch`` > 1) every pitch-th output is
    tiled together.
    """

    count: int
    taps: int
    phases: int
    pitch: int
    out: tuple[int, int]
    base: int
    shift: int
    scale: int
    weight: tuple[int, int, int]
    extent: int

    @staticmethod
    def of(line: Line, extent: int, outputs: int) -> Axis:
        """The axis of a line through a kernel of that extent, for tiles of so many outputs."""
        start, stride, step = line.input
        first, apart = line.weight
        if stride > 1:  # polyphase: tap m = stride * t + p
            taps = -(-extent // stride)
            phases, weight = min(stride, extent), (0, 1, stride)
            return Axis(line.count, taps, phases, 1, line.out, start, 1, stride, weight, extent)
        if step < 0:  # the taps run backwards
            start += step * (line.taps - 1)
            first, apart = first + apart * (line.taps - 1), -apart
        pitch, parts = abs(step), _parts(line.taps, outputs)
        taps = -(-line.taps // parts)
        weight = (first, taps * apart, apart)
        shift = taps * pitch
        return Axis(line.count, taps, parts, pitch, line.out, start, shift, 1, weight, extent)

    def weight_at(self, phase: int, tap: int) -> int | None:
        place = self.weight[0] + self.weight[1] * phase + self.weight[2] * tap
        return place if 0 <= place < self.extent else None


def axes_of(lines: Lines, kernel: Sequence[int], outputs: int) -> tuple[Axis, ...]:
    """The axes of a convolution, for tiles of so many outputs along each."""
    return tuple(Axis.of(line, n, outputs) for line, n in zip(lines, kernel, strict=True))


def _parts(taps: int, outputs: int) -> int:
    """Into how many parts the taps are split, so that together they need the fewest products."""
    sizes = {parts: -(-taps // parts) for parts in range(1, taps + 1)}
    short = [parts for parts, size in sizes.items() if size == 1 or outputs + size - 1 <= LARGEST]
    return min(short, key=lambda parts: (parts * (outputs + sizes[parts] - 1), -parts), default=1)


@dataclass(frozen=True)
class Tiling:
    """Axes with their filterings: ``outputs`` of a tile and ``tiles``, per axis."""

    shape: Convolution
    axes: tuple[Axis, ...]
    filters: tuple[Filtering, ...]
    outputs: tuple[int, ...]
    lanes: int

    @staticmethod
    def all(shape: Convolution, outputs: int, lanes: int) -> list[Tiling]:
        """One tiling, or for a strided input gradient one for each residue."""
        kernel = shape.weights[2:]
        return [
            Tiling._of(shape, axes_of(lines, kernel, outputs), outputs, lanes)
            for lines in shape.lines()
        ]

    @staticmethod
    def _of(shape: Convolution, axes: tuple[Axis, ...], outputs: int, lanes: int) -> Tiling:
        each = tuple(outputs if axis.taps > 1 else 1 for axis in axes)
        filters = (
            filtering(m, axis.taps) if axis.taps > 1 else IDENTITY
            for m, axis in zip(each, axes, strict=True)
        )
        return Tiling(shape, axes, tuple(filters), each, lanes)

    def whole(self, pool: Pool) -> bool:
        """Whether the tiles are made of whole windows of a pool."""
        axes = zip(self.axes, self.outputs, pool.window, strict=True)
        return all(a.pitch == 1 and a.out == (0, 1) and m % w == 0 for a, m, w in axes)

    @property
    def tiles(self) -> tuple[int, ...]:
        pairs = zip(self.axes, self.outputs, strict=True)
        return tuple(-(-axis.count // (m * axis.pitch)) for axis, m in pairs)

    @property
    def phases(self) -> int:
        return prod(axis.phases for axis in self.axes)

    @property
    def interleaved(self) -> int:
        """How many times the tiles of one image are run: once for each offset of a dilation."""
        return prod(axis.pitch for axis in self.axes)

    @property
    def points(self) -> tuple[int, ...]:
        return tuple(each.products for each in self.filters)

    @property
    def out_blocks(self) -> int:
        return -(-self.shape.out // self.lanes)

    @property
    def in_blocks(self) -> int:
        return -(-self.shape.inner // self.lanes)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        points, inner = prod(self.points), self.shape.inner
        return (points, self.out_blocks, self.phases, inner, self.lanes)

    def halo(self) -> tuple[tuple[int, int], ...]:
        """How far the tiles read beyond the input; the last ones may overhang the output."""
        pads = []
        starts = [(tiles - 1) * m for tiles, m in zip(self.tiles, self.outputs, strict=True)]
        axes = zip(self.axes, starts, self.points, self.shape.read[2:], strict=True)
        for axis, start, points, n in axes:
            cells = start + points
            last = axis.base + axis.shift * (axis.phases - 1)
            last += axis.scale * (cells * axis.pitch - 1)
            pads.append((max(0, -axis.base), max(0, last - n + 1)))
        return tuple(pads)

    def block(self, itemsize: int) -> tuple[int, ...]:
        """Tiles that are transformed together: as many as take the least time in all.

        Every block reads all transformed weights; and for every pair of output blocks, its own
        transformed tiles again, from a slower cache the more there are of them.
        """
        choices = {self._cut(most) for most in (7, 14, 21, 28, 42, 56, 98)}
        return min(choices, key=lambda sizes: self._price(sizes, itemsize))

    def _price(self, sizes: tuple[int, ...], itemsize: int) -> float:
        """Seconds, about, on one thread and on two that share the blocks."""
        fetched = self.fetch_seconds(sizes, itemsize)
        steady = max(self.product_seconds, fetched) + SEEN * fetched
        return steady * (1 + self._uneven(sizes))

    @property
    def product_seconds(self) -> float:
        """Of one image, at the peak."""
        sums = prod(self.points) * prod(self.tiles) * self.phases * self.shape.inner
        return sums * self.out_blocks / UNITS / CLOCK

    def _uneven(self, sizes: tuple[int, ...]) -> float:
        """How much longer than half of all blocks two threads take, who fetch one by one."""
        cuts = [segments(count, size) for count, size in zip(self.tiles, sizes, strict=True)]
        loads = [0, 0]
        for cut in product(*cuts):
            count = prod(count for _, count, _ in cut) * self.shape.image[0] * self.interleaved
            size, count = prod(width for *_, width in cut), count * self._most_parts
            loads = [load + size * (count // 2) for load in sorted(loads)]
            loads[0] += size * (count % 2)
        return 2 * max(loads) / sum(loads)

    @property
    def _most_parts(self) -> int:
        return max(1, self.out_blocks // LEAST_OUTPUTS)

    def share(self, tasks: int) -> int:
        """Output blocks of a task, where the tiles make so many tasks.

        They are split, though each part transforms the input anew, as long as that costs little
        beside the products.
        """
        parts = min(-(-ENOUGH_TASKS // max(tasks, 1)), self._most_parts)
        if tasks * parts == 1:  # nothing to share: even halves are better
            parts = 2
        return max(-(-self.out_blocks // parts), LEAST_HALF)

    def fetch_seconds(self, sizes: tuple[int, ...], itemsize: int) -> float:
        """Seconds of reading weights and tiles, for one image cut into blocks of these sizes."""
        point = prod(self.points) * itemsize
        weights = point * self.phases * self.shape.inner * self.out_blocks * self.lanes
        tiles = point * prod(sizes) * self.phases * self.in_blocks * self.lanes
        blocks = prod(-(-count // size) for count, size in zip(self.tiles, sizes, strict=True))
        again = tiles * -(-self.out_blocks // 2)
        return blocks * (weights / stream_bytes(weights) + again / stream_bytes(tiles))

    def _cut(self, most: int) -> tuple[int, ...]:
        sizes = [1] * len(self.tiles)
        for axis in reversed(range(len(self.tiles))):
            sizes[axis] = _even_part(self.tiles[axis], max(1, most // prod(sizes)))
        return tuple(sizes)


def _even_part(count: int, most: int) -> int:
    """The width that cuts ``count`` into the fewest parts of at most ``most``, evenly."""
    parts = -(-count // most)
    return -(-count // parts)
