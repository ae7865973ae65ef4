"""Kernels that move data: layout conversions, copies, packing channel vectors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from convc.backend.target import Target
from convc.layout import Image, zero_halo
from convc.schedule import segments
from ir.loops import Kernel, KernelBuilder
from ir.loops.nodes import Affine, Load, LoopKind, Scalar

if TYPE_CHECKING:
    from convc.program import Stored

CHUNK = 2048  # elements a task copies
TASKS = 16  # enough for the threads that share a kernel


def convert_kernel(source: Stored, result: Stored, target: Target) -> Kernel:
    """Copy an image from one layout to another; the halo of the result is zeroed."""
    k = KernelBuilder("convert")
    if not source.layout.halo and not result.layout.halo:  # its pixels are one long row
        batch, channels, *spatial = source.shape
        row = source.type.with_shape(batch, channels, prod(spatial))
        source, result = replace(source, type=row), replace(result, type=row)
    x, y = source.image(k, "x"), result.image(k, "y", write=True)
    zero_halo(k, y)
    _copy_image(k, x, y, target.lanes(source.dtype))
    return k.build()


def _copy_image(k: KernelBuilder, x: Image, y: Image, lanes: int) -> None:
    """In vectors where both are blocked alike; else by square tiles, transposed."""
    if x.layout.block == y.layout.block:
        walk(k, y, lanes, lambda index: k.store(y[index], x[index]))
        return
    blocked = x if x.layout.block > 1 else y
    side = blocked.layout.block
    *rows, last = blocked.shape[2:]
    planes = x.shape[0] * blocked.blocks
    few: LoopKind = "parallel" if planes < TASKS else "for"  # then rows are shared too
    most = (
        max(last, 1) if rows else max(-(-last * planes // (TASKS * side)), 1) * side
    )  # pixels a task
    for first, blocks, channels in segments(blocked.shape[1], side):
        for start, chunks, chunk in segments(last, most):
            for inner, tiles, pixels in segments(chunk, side):
                with ExitStack() as loops:
                    n = loops.enter_context(k.loop("n", x.shape[0], "parallel"))
                    b = loops.enter_context(k.loop("b", blocks, "parallel"))
                    at = [
                        loops.enter_context(k.loop(f"s{a}", extent, "for" if a else few))
                        for a, extent in enumerate(rows)
                    ]
                    c = loops.enter_context(k.loop("chunk", chunks, "for" if rows else few))
                    p = loops.enter_context(k.loop("p", tiles)) * side
                    pixel = c * most + p + (start + inner)
                    place = _Place(n, b + first // side, tuple(at), pixel, channels, pixels)
                    _transpose(k, x, y, place)


@dataclass(frozen=True)
class _Place:
    """A tile of an image: some channels of a block by some pixels of a row."""

    n: Affine
    block: Affine
    row: tuple[Affine, ...]
    pixel: Affine
    channels: int
    pixels: int

    def plain(self, image: Image, channel: Affine, pixel: Affine, side: int) -> Load:
        return image[(self.n, self.block * side + channel, *self.row, self.pixel + pixel, 0)]

    def blocked(self, image: Image, channel: Affine, pixel: Affine) -> Load:
        return image[(self.n, self.block, *self.row, self.pixel + pixel, channel)]


def _transpose(k: KernelBuilder, x: Image, y: Image, place: _Place) -> None:
    """Write a square local by rows of ``x``, read it by columns for ``y``."""
    side = max(x.layout.block, y.layout.block)
    tile = k.local("tile", x.buffer.dtype, (side, side))
    pack = y.layout.block > 1
    rows, width = (place.channels, place.pixels) if pack else (place.pixels, side)
    with k.loop("i", rows, "unroll") as i, k.loop("v", width, "vector") as v:
        source = place.plain(x, i, v, side) if pack else place.blocked(x, v, i)
        k.store(tile[i, v], source)
    rows, width = (place.pixels, side) if pack else (place.channels, place.pixels)
    with k.loop("i", rows, "unroll") as i, k.loop("v", width, "vector") as v:
        target = place.blocked(y, v, i) if pack else place.plain(y, i, v, side)
        k.store(target, tile[v, i])


def walk(
    k: KernelBuilder, image: Image, lanes: int, body: Callable[[tuple[Affine | int, ...]], None]
) -> None:
    """``body(subscript)`` for every element of an image, a vector at a time.

    The vector is the block; of unblocked images, the last axis.
    """
    extents = {"n": image.shape[0], "c": image.blocks}
    extents |= {f"s{axis}": extent for axis, extent in enumerate(image.shape[2:])}
    blocked = image.layout.block > 1
    inner, extent = ("v", image.layout.block) if blocked else extents.popitem()
    few = image.shape[0] * image.blocks < TASKS and len(image.shape) > 3
    shared = ("n", "c", "s0") if few else ("n", "c")
    with ExitStack() as loops:
        outer = [
            loops.enter_context(k.loop(axis, size, "parallel" if axis in shared else "for"))
            for axis, size in extents.items()
        ]
        for start, trips, width in segments(extent, image.layout.block if blocked else lanes):
            with k.loop(inner, trips) as i, k.loop("v", width, "vector") as v:
                at = i * width + v + start
                body((*outer, at) if blocked else (*outer, at, 0))


def copy_kernel(dtype: Scalar, size: int, target: Target) -> Kernel:
    """Copy so many elements."""
    k = KernelBuilder("copy")
    x, y = k.read("x", dtype, (size,)), k.write("y", dtype, (size,))
    flat(k, dtype, size, target, lambda i: k.store(y[i], x[i]))
    return k.build()


def flat(
    k: KernelBuilder, dtype: Scalar, size: int, target: Target, body: Callable[[Affine], None]
) -> None:
    """``body(i)`` for every element of a contiguous buffer: tasks of ``CHUNK``, vectors inside."""
    lanes = target.lanes(dtype)
    for start, chunks, chunk in segments(size, CHUNK):
        with k.loop("chunk", chunks, "parallel") as c:
            for first, count, width in segments(chunk, lanes):
                with k.loop("i", count) as i, k.loop("v", width, "vector") as v:
                    body(c * CHUNK + i * lanes + v + (start + first))


def channel_vector_kernel(dtype: Scalar, channels: int, size: int) -> Kernel:
    """Copy a vector and fill it up with zeros."""
    k = KernelBuilder("pad_vector")
    x, y = k.read("x", dtype, (channels,)), k.write("y", dtype, (size,))
    with k.loop("i", channels, "parallel") as i:
        k.store(y[i], x[i])
    with k.loop("i", range(channels, size), "parallel") as i:
        k.store(y[i], k.constant(0, dtype))
    return k.build()
