"""Kernels that move data: layout conversions, copies, packing channel vectors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from convc.backend.target import Target
from convc.layout import Image, zero_halo
from convc.schedule import Nest, Point, Schedule, lower, segments
from ir.loops import Kernel, KernelBuilder
from ir.loops.nodes import Affine, Expr, Index, Load, Scalar

if TYPE_CHECKING:
    from convc.lowering import Stored

CHUNK = 2048  # elements a task copies


def convert_kernel(source: Stored, result: Stored, target: Target) -> Kernel:
    """Copy an image from one layout to another; the halo of the result is zeroed."""
    k = KernelBuilder("convert")
    x, y = source.image(k, "x"), result.image(k, "y", write=True)
    zero_halo(k, y)
    _copy_image(k, x, y, target.lanes(source.dtype))
    return k.build()


def _copy_image(k: KernelBuilder, x: Image, y: Image, lanes: int) -> None:
    """In vectors where both are blocked alike; else lane by lane along the last axis."""
    if x.layout.block == y.layout.block:
        walk(k, y, lanes, lambda index: k.store(y[index], x[index]))
        return
    width = max(x.layout.block, y.layout.block)
    positions = {f"s{axis}": extent for axis, extent in enumerate(x.shape[2:])}
    for first, blocks, size in segments(x.shape[1], width):

        def store(p: Point, _: Expr, first: int = first) -> tuple[Load, Expr]:
            channel, block = p["b"] * width + p["v"] + first, p["b"] + first // width
            at = tuple(p[s] for s in positions)
            plain: tuple[Index, ...] = (p["n"], channel, *at, 0)
            blocked: tuple[Index, ...] = (p["n"], block, *at, p["v"])
            if x.layout.block == 1:
                return y[blocked], x[plain]
            return y[plain], x[blocked]

        axes = {"n": x.shape[0], "b": blocks, **positions, "v": size}
        nest = Nest(x.buffer.dtype, axes, store)
        lower(k, nest, Schedule(("n", "b"), tile=(("v", size),)))


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
    with ExitStack() as loops:
        outer = [
            loops.enter_context(k.loop(axis, size, "parallel" if axis in "nc" else "for"))
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
