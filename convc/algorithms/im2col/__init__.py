"""Convolution as products of matrices with patches of the image, gathered tile by tile.

The patches of a tile of pixels are copied side by side ("im2col", Chellapilla et al. 2006) into
the task's own memory and multiplied with the weights, so that the matrix of all patches never
exists. The input gradient does so with the upstream gradient for each residue of the stride.

A task's memory is bounded, whatever the layer: ``COLUMNS`` bytes of patches (or those of one
channel and one vector of pixels, where that is more) and ``PIXELS`` results of ``OUTS`` channels;
for the weight gradient, as many upstream pixels and ``SUMS`` bytes of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar

from convc.algorithms import geometry
from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.convolution import OPS, Convolution
from convc.algorithms.epilogue import Epilogue
from convc.algorithms.im2col.families import Product, pack_kernel, products_of
from convc.algorithms.im2col.gradient import sums_size, weight_gradient
from convc.algorithms.im2col.products import OUTS, correlate
from convc.algorithms.im2col.tiles import tile_cuts
from convc.cost import CLOCK, slowness, stream_bytes
from convc.layout import zero_halo
from convc.schedule import register_tile
from ir.loops import Kernel, KernelBuilder
from ir.ops import Conv, ConvWeightGrad

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored


class Im2col:
    """Gathered patches times weights, in all three directions, on plain data."""

    name: ClassVar[str] = "im2col"
    reorders_only: ClassVar[bool] = True

    def supports(self, site: Site) -> str | None:
        if not isinstance(site.op, OPS):
            return "only for convolutions"
        shape = Convolution.of(site)
        empty = 0 in (*shape.image[1:], *shape.weights, *shape.result[1:])
        return "the tensor is empty" if empty else None

    def seconds(self, site: Site) -> float:
        shape = Convolution.of(site)
        if isinstance(site.op, ConvWeightGrad):
            cycles = _weight_gradient_cycles(shape, site)
        else:
            cycles = sum(_product_cycles(part, site) for part in products_of(shape))
        itemsize = site.outputs[0].dtype.itemsize
        moved = sum(map(prod, (shape.image, shape.result))) * itemsize
        weights = prod(shape.weights) * itemsize
        seconds = shape.image[0] * cycles * slowness(site.target) / CLOCK
        return max(seconds, moved / stream_bytes(moved)) + weights / stream_bytes(weights)

    def tolerance(self, site: Site) -> float:
        return 1e-5 if site.dtype == "f32" else 1e-12

    def block(self, site: Site, given: Sequence[int]) -> int:
        return 1

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        shape = Convolution.of(site)
        walked = Wish((1,), geometry.halo(shape.lines(), shape.read[2:]), exact=False)
        if isinstance(site.op, ConvWeightGrad):
            return Wish((1,), exact=False), walked
        main = (walked, AS_PLAIN) if isinstance(site.op, Conv) else (AS_PLAIN, walked)
        return (*main, *Epilogue(site, 1).wishes())

    def lower(self, site: Site, into: Lowering) -> None:
        shape = Convolution.of(site)
        if isinstance(site.op, ConvWeightGrad):
            _lower_weight_gradient(site, shape, into)
        else:
            _lower_correlation(site, shape, into)


def _lower_correlation(site: Site, shape: Convolution, into: Lowering) -> None:
    source, parts = into.read(1 if shape.transposed else 0), products_of(shape)
    rows, epilogue = _weights(site, shape, parts, into), Epilogue(site, 1)
    extra, result = epilogue.operands(into), into.write()

    def make() -> Kernel:
        k = KernelBuilder("im2col")
        x = source.image(k, "x")
        w = k.read("w", site.dtype, (sum(part.size for part in parts),))
        finish = epilogue.declare(k, extra)
        y = result.image(k, "y", write=True)
        for part in parts:
            correlate(k, part, x, w, y, finish, site.target)
        zero_halo(k, y)
        return k.build()

    stored = (source, rows, *extra, result)
    into.run(into.kernel(("im2col", *site.kind), stored, make), *stored)


def _weights(
    site: Site, shape: Convolution, parts: Sequence[Product], into: Lowering
) -> Stored:
    """The weights in the order of the products: forward, they are given so."""
    if not shape.transposed:
        return into.read(1)

    def pack(plain: Stored) -> Stored:
        size = sum(part.size for part in parts)
        room = into.temporary(f"{site.name}.packed", site.dtype, size)
        into.run(pack_kernel(shape, parts, site.dtype), plain, room, label="pack")
        return room

    return into.derive(0, ("im2col", shape.op, shape.image[2:]), pack)


def _lower_weight_gradient(site: Site, shape: Convolution, into: Lowering) -> None:
    upstream, source, result = into.read(0), into.read(1), into.write()
    k = KernelBuilder("im2col_weights")
    g, x = upstream.image(k, "g"), source.image(k, "x")
    rows = shape.weights[0], prod(shape.weights[1:])
    weight_gradient(k, shape, g, x, k.write("dw", site.dtype, rows), site.target)
    into.run(k.build(), upstream, source, result)


def _product_cycles(part: Product, site: Site) -> float:
    """Of one example: products, the copies of the patches, those of the results."""
    lanes, unit = site.lanes, part.lines[-1].input[1] == 1
    rows = prod(part.classes) * part.outs
    tiles = 0.0
    for cut in tile_cuts(part.lines, part.pixels(site.outputs[0].dtype.itemsize, lanes)):
        pixels, segments = cut.down[2] * cut.across[2], -(-cut.across[2] // lanes)
        best = register_tile(site.target, (min(rows, OUTS),), -(-pixels // lanes))
        products = best.cycles * part.depth * max(rows / OUTS, 1)
        copied = part.depth * cut.down[2] * segments * -(-rows // OUTS)
        written = rows * cut.down[2] * segments * (3 if part.lines[-1].out[1] == 1 else lanes)
        tiles += cut.count * (1.1 * products + copied * (2 if unit else 0.75 * lanes) + written)
    return part.groups * tiles


def _weight_gradient_cycles(shape: Convolution, site: Site) -> float:
    """Of one example: products, and the copies of the patches for each chunk of outputs."""
    outs, channels = sums_size(shape, site.lanes, site.outputs[0].dtype.itemsize)
    taps = prod(shape.weights[2:])
    best = register_tile(site.target, (outs,), -(-channels * taps // site.lanes))
    pieces = channels * taps / shape.weights[-1] * -(-shape.weights[-1] // site.lanes)
    chunks = shape.op.groups * -(-shape.out // outs) * shape.inner / channels
    short = 0.95 if taps == 1 else 1.05  # many taps leave room for few pixels at a time
    return chunks * prod(shape.result[2:]) * (short * best.cycles + 2.2 * pieces)
