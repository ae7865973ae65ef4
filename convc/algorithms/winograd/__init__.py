"""Convolution by minimal filtering (Winograd 1980; Lavin and Gray 2016).

The output is cut into tiles. Each tile of the input is transformed, the products over all input
channels are one small matrix product per point of the transform, and each tile of the output is
transformed back: for F(4, 3) in two dimensions 36 products do the work of 144. Serves the forward
direction; the input gradient, which at unit stride is the same with flipped weights; and the
weight gradient, where tiles of the upstream gradient take the place of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.convolution import OPS, Convolution
from convc.algorithms.epilogue import Epilogue, Output
from convc.algorithms.unpack import UNPACKING
from convc.algorithms.winograd import gradient
from convc.algorithms.winograd.product import multiply_blocks, weights_kernel
from convc.algorithms.winograd.tiling import LARGEST, Tiling, axes_of
from convc.cost import CLOCK, L3, UNITS, cold_seconds, slowness, stream_bytes
from convc.layout import Pads, covering, zero_halo
from ir.loops import Kernel, KernelBuilder
from ir.ops import Conv, ConvWeightGrad

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored

EFFICIENCY = 0.85  # of the peak, that the small products reach
TRANSFORM = 2.0  # cycles to transform one vector along one axis, its load and store included
MOST_PHASES = 16  # that a tile keeps transformed at once


class Winograd:
    """F(m, r) along every axis with more than one tap."""

    reorders_only: ClassVar[bool] = False

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs
        self.name = f"winograd{outputs}"

    def supports(self, site: Site) -> str | None:
        if not isinstance(site.op, OPS):
            return "only for convolutions"
        shape = Convolution.of(site)
        gradient, unit = isinstance(site.op, ConvWeightGrad), set(shape.op.stride) == {1}
        dilated = set(shape.op.dilation) != {1}
        reasons = {
            "the weight gradient is strided": gradient and not unit,
            "the kernel of the gradient is dilated": gradient and dilated,
            "the kernel is both strided and dilated": dilated and not unit,
            "the channels are grouped": shape.op.groups != 1,
            "the tensor is empty": 0 in (*shape.image, *shape.weights, *shape.result),
        }
        reason = next((reason for reason, holds in reasons.items() if holds), None)
        return reason or self._unsuitable(shape, gradient)

    def _unsuitable(self, shape: Convolution, gradient: bool) -> str | None:
        """Why the taps do not lend themselves to it, if they do not."""
        if gradient:
            taps = [shape.weights[2:]]
            phases = 1
        else:
            kernel = shape.weights[2:]
            axes = [axes_of(lines, kernel, self.outputs) for lines in shape.lines()]
            taps = [tuple(axis.taps for axis in each) for each in axes]
            phases = max(prod(axis.phases for axis in each) for each in axes)
        if any(0 in each for each in taps):
            return "some outputs receive nothing"
        if all(set(each) == {1} for each in taps):
            return "every axis has one tap"
        points = [[self.outputs + tap - 1 if tap > 1 else 1 for tap in each] for each in taps]
        if max(max(each) for each in points) > LARGEST or phases > MOST_PHASES:
            return "too many taps"
        return "too many points" if max(map(prod, points)) > 100 else None

    def seconds(self, site: Site) -> float:
        if isinstance(site.op, ConvWeightGrad):
            return gradient_seconds(self._gradient(site), site)
        return sum(predicted_seconds(tiling, site) for tiling in self._tilings(site))

    def tolerance(self, site: Site) -> float:
        """Of the largest input in a tile times the sum of the magnitudes of the weights.

        The transforms mix the inputs of a tile, so the error of an output depends on all of them,
        and an infinite or missing number in a tile spreads over it.
        """
        factor = {2: 3.0, 4: 20.0}.get(self.outputs, 100.0)
        return factor * (1e-5 if site.dtype == "f32" else 1e-13)

    def block(self, site: Site, given: Sequence[int]) -> int:
        return 1 if isinstance(site.op, ConvWeightGrad) else site.lanes

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        if isinstance(site.op, ConvWeightGrad):
            halos = self._gradient(site).gradient_halo(), self._gradient(site).image_halo()
            return tuple(Wish((site.lanes,), halo, exact=False) for halo in halos)
        halo: Pads = ()
        for tiling in self._tilings(site):
            halo = covering(halo, tiling.halo())
        walked = Wish((site.lanes,), halo, exact=False)
        main = (walked, AS_PLAIN) if isinstance(site.op, Conv) else (AS_PLAIN, walked)
        return (*main, *Epilogue(site, site.lanes).wishes())

    def lower(self, site: Site, into: Lowering) -> None:
        if isinstance(site.op, ConvWeightGrad):
            gradient.lower_gradient(site, self._gradient(site), into)
            return
        tilings = self._tilings(site)
        walked = 0 if isinstance(site.op, Conv) else 1
        source = into.read(walked)
        weights = [self._transformed(site, tiling, 1 - walked, into) for tiling in tilings]
        epilogue = Epilogue(site, site.lanes)
        extra = epilogue.operands(into)
        pool = into.pool()
        if pool is not None and not all(tiling.whole(pool) for tiling in tilings):
            pool = None
        result = into.write_pooled(site.lanes) if pool else into.write(site.lanes)

        def make() -> Kernel:
            k = KernelBuilder(self.name)
            x = source.image(k, "x")
            us = [k.read("u", site.dtype, tiling.weight_shape) for tiling in tilings]
            finish = epilogue.declare(k, extra)
            y = result.image(k, "y", write=True)
            output = Output(y, finish, pool)
            for tiling, u in zip(tilings, us, strict=True):
                multiply_blocks(k, tiling, x, u, output, site.target)
            zero_halo(k, y)
            return k.build()

        stored = (source, *weights, *extra, result)
        key = self.name, pool, *site.kind
        into.run(into.kernel(key, stored, make), *stored, over=extra)

    def _transformed(self, site: Site, tiling: Tiling, operand: int, into: Lowering) -> Stored:
        """The weights of a tiling, transformed once where they are constant."""

        key = (tiling.axes, tiling.outputs, tiling.shape.transposed, tiling.lanes)

        def transform(plain: Stored) -> Stored:
            name = f"{site.name}.transformed"
            room = into.temporary(name, site.dtype, prod(tiling.weight_shape))
            kernel = into.kernel(key, (plain, room), lambda: weights_kernel(tiling, site.dtype))
            into.run(kernel, plain, room, label="pack")
            return room

        return into.derive(operand, key, transform)

    def _tilings(self, site: Site) -> list[Tiling]:
        return Tiling.all(Convolution.of(site), self.outputs, site.lanes)

    def _gradient(self, site: Site) -> gradient.GradientTiling:
        return gradient.GradientTiling.of(Convolution.of(site), self.outputs, site.lanes)


def gradient_seconds(tiling: gradient.GradientTiling, site: Site) -> float:
    """Products at the peak; transformed tiles are computed, written and read again."""
    lanes, itemsize = tiling.lanes, site.outputs[0].dtype.itemsize
    blocks = [tiling.blocks(c) for c in (tiling.shape.result[1], tiling.shape.image[1])]
    vectors = prod(tiling.points) * tiling.images
    cycles = vectors * tiling.shape.image[1] * blocks[0] / UNITS / EFFICIENCY
    cycles += vectors * sum(blocks) * TRANSFORM * len(tiling.points)
    cycles += UNPACKING * prod(tiling.shape.weights)
    sums = prod(tiling.points) * tiling.shape.image[1] * blocks[0]
    tiles, products = (n * lanes * itemsize for n in (vectors * sum(blocks), sums))
    moved = 3 * tiles + (3 if products < L3 else 5) * products
    return cycles * slowness(site.target) / CLOCK + moved / stream_bytes(tiles + products)


def predicted_seconds(tiling: Tiling, site: Site) -> float:
    """Products near the peak and transforms; or the weights, which are prefetched meanwhile, and
    what else the caches deliver too slowly."""
    batch, itemsize = tiling.shape.image[0], site.outputs[0].dtype.itemsize
    vectors = prod(tiling.tiles) * prod(tiling.points) * tiling.interleaved
    inner, blocks = tiling.phases * tiling.shape.inner, tiling.phases * tiling.in_blocks
    cycles = vectors * inner * tiling.out_blocks / UNITS / EFFICIENCY
    cycles += vectors * (blocks + tiling.out_blocks) * TRANSFORM * len(tiling.points)
    fetch = tiling.fetch_seconds(tiling.block(itemsize), itemsize)
    steady = batch * max(cycles * slowness(site.target) / CLOCK, fetch * tiling.interleaved)
    return max(steady, cold_seconds(prod(tiling.weight_shape) * itemsize, site.resident))
