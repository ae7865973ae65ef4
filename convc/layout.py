"""How a value [N, C, *S] lies in memory: channels in blocks, spatial axes in a halo of zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convc.schedule import segments
from ir.loops import Buffer, KernelBuilder
from ir.loops.nodes import Index, Load

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """Physical shape [N, ceil(C / block), *(S + halo), block], row-major.

    Lanes beyond C hold anything and are never mixed with others; halo cells hold zero.
    Block 1 without a halo is plain NCHW, and the layout of every value that is no image.
    """

    block: int = 1
    halo: Pads = ()

    @property
    def plain(self) -> bool:
        return self.block == 1 and not any(map(any, self.halo))

    def physical(self, shape: Sequence[int]) -> tuple[int, ...]:
        batch, channels, *spatial = shape
        halo = self.pads(len(spatial))
        extents = (n + low + high for n, (low, high) in zip(spatial, halo, strict=True))
        return (batch, -(-channels // self.block), *extents, self.block)

    def size(self, shape: Sequence[int]) -> int:
        return math.prod(shape) if self.plain else math.prod(self.physical(shape))

    def pads(self, rank: int) -> Pads:
        return self.halo or ((0, 0),) * rank

    def __str__(self) -> str:
        text = f"NC{self.block}c" if self.block > 1 else "NC"
        return text + (f"+{'x'.join(f'{a}:{b}' for a, b in self.halo)}" if not self.plain else "")


PLAIN = Layout()
ROW = 16  # zeros side by side that are written at once


@dataclass(frozen=True)
class Image:
    """A kernel's view of a value in a layout; subscripts are logical, the halo is added here."""

    buffer: Buffer
    layout: Layout
    shape: tuple[int, ...]

    def __getitem__(self, index: tuple[Index, ...]) -> Load:
        """``[batch, channel block, *position, lane]``; positions may reach into the halo."""
        batch, block, *position, lane = index
        pads = self.layout.pads(len(self.shape) - 2)
        moved = (p + low for p, (low, _) in zip(position, pads, strict=True))
        return self.buffer[(batch, block, *moved, lane)]

    @property
    def blocks(self) -> int:
        return -(-self.shape[1] // self.layout.block)


def covering(first: Pads, second: Pads) -> Pads:
    """The smallest halo that contains both."""
    if not first or not second:
        return first or second
    return tuple((max(a, c), max(b, d)) for (a, b), (c, d) in zip(first, second, strict=True))


def zero_halo(k: KernelBuilder, image: Image) -> None:
    """Write zeros around the image: a task for each plane of channels."""
    if not any(map(any, image.layout.halo)) or 0 in image.shape[:2]:
        return
    with k.loop("n", image.shape[0], "parallel") as n, k.loop("c", image.blocks, "parallel") as c:
        zero_border(k, image, (n, c))


def zero_border(k: KernelBuilder, image: Image, plane: tuple[Index, Index]) -> None:
    """Write zeros around one plane: disjoint slabs, an axis at a time."""
    spatial = image.shape[2:]
    pads = image.layout.pads(len(spatial))
    for axis, (low, high) in enumerate(pads):
        ranges: list[range] = []
        for other, n in enumerate(spatial):
            inner = range(n) if other < axis else range(-pads[other][0], n + pads[other][1])
            ranges.append(inner)
        for slab in (range(-low, 0), range(spatial[axis], spatial[axis] + high)):
            ranges[axis] = slab
            if math.prod(map(len, ranges)):
                _fill(k, image, plane, tuple(ranges))


def clear(k: KernelBuilder, image: Image, plane: tuple[Index, Index]) -> None:
    """Zero one block of channels of one example, its halo too."""
    pads = image.layout.pads(len(image.shape) - 2)
    spatial = zip(image.shape[2:], pads, strict=True)
    ranges = tuple(range(-low, n + high) for n, (low, high) in spatial)
    _fill(k, image, plane, ranges)


def _fill(
    k: KernelBuilder, image: Image, index: tuple[Index, ...], ranges: tuple[range, ...]
) -> None:
    """Zeros at the given positions of a plane, a vector at a time."""
    zero = k.constant(0, image.buffer.dtype)
    if not ranges:
        with k.loop("v", image.layout.block, "vector") as v:
            k.store(image[(*index, v)], zero)
        return
    if image.layout.block == 1 and len(ranges) == 1:
        for start, trips, width in segments(ranges, ROW):
            with k.loop("u", trips) as u, k.loop("v", width, "vector") as v:
                k.store(image[(*index, u * width + v + start, 0)], zero)
        return
    with k.loop("h", ranges[0]) as position:
        _fill(k, image, (*index, position), ranges[1:])
