"""Convolution by fast Fourier transforms, for large kernels at unit stride.

A correlation is a product of spectra, so a tile of n points costs n log n however many taps the
kernel has (Stockham 1966; for networks Mathieu, Henaff and LeCun 2013). Every lane of a vector
transforms a line of its own: lanes are channels, as they lie in the blocked layout, and where
there are few of them, tiles.

A NaN or infinity in the input spreads to all outputs of its tile, and rounding errors are
relative to the largest values of the tile: about epsilon * log2(n) * |x| * |w|, in norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar

from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.convolution import OPS, Convolution
from convc.algorithms.epilogue import Epilogue
from convc.algorithms.fft import across, estimate, gradient, products, spectra
from convc.algorithms.fft.frame import Frame
from convc.algorithms.fft.lengths import LONGEST
from convc.algorithms.fft.passes import Twiddles
from convc.algorithms.fft.tiling import Tiling
from convc.backend.target import ITEM_BYTES
from convc.layout import zero_halo
from ir.loops import Kernel
from ir.loops.interpreter import NUMPY
from ir.ops import Conv, ConvInputGrad, ConvWeightGrad

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored


class Fft:
    """Overlap-save with transforms along one or two axes."""

    name: ClassVar[str] = "fft"
    reorders_only: ClassVar[bool] = False

    def supports(self, site: Site) -> str | None:
        if not isinstance(site.op, OPS):
            return "only for convolutions"
        shape = Convolution.of(site)
        groups, weights = shape.op.groups, shape.weights
        reasons = {
            "the stride is not 1": set(shape.op.stride) != {1},
            "the kernel is dilated": set(shape.op.dilation) != {1},
            "more than two axes": len(shape.op.stride) > 2,
            "the kernel is too long": max(weights[2:]) > LONGEST // 2,
            "the channels are grouped": groups > 1 and weights[:2] != (groups, 1),
            "the tensor is empty": 0 in (*shape.image, *weights, *shape.result),
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def seconds(self, site: Site) -> float:
        gradient = isinstance(site.op, ConvWeightGrad)
        weights = 0 if isinstance(site.op, ConvInputGrad) else 1
        packed = any(array is not None for array in site.constants[weights : weights + 1])
        item = ITEM_BYTES[site.dtype]
        spent = estimate.seconds(_tiling(site), item, gradient, packed)
        return spent * (1.0 if site.target.fused_multiply_add else 1.4)

    def tolerance(self, site: Site) -> float:
        return 1e-5 if site.dtype == "f32" else 1e-13

    def block(self, site: Site, given: Sequence[int]) -> int:
        return 1 if isinstance(site.op, ConvWeightGrad) else _tiling(site).result_block

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        tiling = _tiling(site)
        walked = Wish((tiling.image_block,), tiling.halo(), exact=False)
        if isinstance(site.op, ConvWeightGrad):
            beyond = tuple((0, axis.overhang) for axis in tiling.axes)[-len(site.op.stride) :]
            return Wish((site.lanes,), beyond, exact=False), walked
        main = (walked, AS_PLAIN) if isinstance(site.op, Conv) else (AS_PLAIN, walked)
        return (*main, *Epilogue(site, tiling.result_block).wishes())

    def lower(self, site: Site, into: Lowering) -> None:
        lower = _lower_correlation
        if isinstance(site.op, ConvWeightGrad):
            lower = _lower_weight_gradient
        lower(site, _tiling(site), into)


def _tiling(site: Site) -> Tiling:
    gradient = isinstance(site.op, ConvWeightGrad)
    return Tiling.of(Convolution.of(site), site.lanes, ITEM_BYTES[site.dtype], gradient)


def _table(tiling: Tiling, site: Site, into: Lowering) -> Stored:
    numbers = Twiddles(*tiling.radices).array
    return into.table(f"{site.name}.twiddles", numbers.astype(NUMPY[site.dtype]))


def _lower_correlation(site: Site, tiling: Tiling, into: Lowering) -> None:
    walked, operand = (1, 0) if tiling.flip else (0, 1)
    table, epilogue = _table(tiling, site, into), Epilogue(site, tiling.result_block)
    fused = tiling.depthwise or tiling.across
    source = into.read(walked) if fused else _image(tiling, table, walked, site, into)
    weights, extra = _weights(tiling, table, operand, site, into), epilogue.operands(into)
    result = into.write(tiling.result_block)
    name = "depthwise" if tiling.depthwise else "across" if tiling.across else "mixing"

    def make() -> Kernel:
        frame = Frame.begin(f"fft_{name}", tiling, site.dtype)
        k, block = frame.k, tiling.image_block
        if fused:
            x = source.image(k, "x")
        else:
            s = k.read("spectra", site.dtype, spectra.image_shape(tiling, block))
        u = k.read("u", site.dtype, spectra.weights_shape(tiling))
        finish = epilogue.declare(k, extra)
        y = result.image(k, "y", write=True)
        if tiling.depthwise:
            products.depthwise(frame, x, u, y, finish)
        elif tiling.across:
            across.correlate(frame, x, u, y, finish)
        else:
            products.mixing(frame, s, u, y, finish, site.target.registers)
        zero_halo(k, y)
        return k.build()

    stored = (table, source, weights, *extra, result)
    into.run(into.kernel(("fft", *site.kind), stored, make), *stored)


def _weights(tiling: Tiling, table: Stored, operand: int, site: Site, into: Lowering) -> Stored:
    """Spectra of the weights, computed once where these are constant."""

    def pack(plain: Stored) -> Stored:
        size = prod(spectra.weights_shape(tiling))
        room = into.temporary(f"{site.name}.spectra", site.dtype, size)
        kernel = into.kernel(("fft weights", tiling), (table, plain, room),
                             lambda: spectra.weights_kernel(tiling, site.dtype))  # fmt: skip
        into.run(kernel, table, plain, room, label="pack")
        return room

    return into.derive(operand, ("fft weights", tiling.flip, tiling.axes, tiling.lanes), pack)


def _image(tiling: Tiling, table: Stored, operand: int, site: Site, into: Lowering) -> Stored:
    """Spectra of the tiles of an image."""

    def compute(source: Stored) -> Stored:
        size = prod(spectra.image_shape(tiling, source.layout.block))
        room = into.temporary(f"{site.name}.image", site.dtype, size)
        kernel = into.kernel(("fft image", tiling), (table, source, room),
                             lambda: spectra.image_kernel(tiling, source))  # fmt: skip
        into.run(kernel, table, source, room)
        return room

    return into.derive(operand, ("fft image", tiling.axes, tiling.image_block), compute)


def _lower_weight_gradient(site: Site, tiling: Tiling, into: Lowering) -> None:
    table, upstream = _table(tiling, site, into), into.read(0)
    source = into.read(1) if tiling.depthwise else _image(tiling, table, 1, site, into)
    shape = gradient.sums_shape(tiling)
    sums = into.temporary(f"{site.name}.sums", site.dtype, prod(shape))
    frame = Frame.begin("fft_gradient", tiling, site.dtype)
    k = frame.k
    g = upstream.image(k, "g")
    if tiling.depthwise:
        gradient.depthwise(frame, g, source.image(k, "x"), k.write("sums", site.dtype, shape))
    else:
        s = k.read("spectra", site.dtype, spectra.image_shape(tiling, tiling.image_block))
        gradient.mixing(frame, g, s, k.write("sums", site.dtype, shape))
    into.run(k.build(), table, upstream, source, sums)
    back = Frame.begin("fft_gradient_back", tiling, site.dtype)
    d = back.k.read("sums", site.dtype, shape)
    gradient.restore(back, d, back.k.write("dw", site.dtype, tiling.shape.weights))
    into.run(back.k.build(), table, sums, into.write())
