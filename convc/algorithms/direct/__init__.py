"""Direct convolution: the sum as it is written, in all three directions and for every shape.

Four forms share the work. ``channels`` puts output channels in the lanes of a vector,
``depthwise`` the channels of a convolution that mixes none, ``spatial`` the last image axis;
``planes`` is ``spatial`` for channels that are not mixed, a plane at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from convc.algorithms import geometry
from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.convolution import OPS, Convolution
from convc.algorithms.direct import channels, depthwise, planes, spatial, weight_gradient
from convc.algorithms.direct.channels import Channels
from convc.algorithms.epilogue import Epilogue, Output
from convc.algorithms.unpack import UNPACKING, packed_room, unpack
from convc.cost import CLOCK, L2, UNITS, slowness, stream_bytes
from convc.layout import zero_halo
from convc.pooling import Pool
from convc.schedule import register_tile
from ir.loops import Kernel, KernelBuilder
from ir.ops import Conv, ConvWeightGrad

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored

PLAIN_FORMS = ("spatial", "planes")
COPIED = 20  # cycles to copy a row of a plane
ROW = 30  # cycles to begin and end a short row of vectors
TRANSPOSE = 50  # cycles to transpose a square of vectors and store it
SEEN = 0.7  # of the time of fetching, what products do not hide
Form = Literal["channels", "depthwise", "spatial", "planes"]


def form_of(shape: Convolution, lanes: int) -> Form:
    """Which of the three forms suits the channels and groups."""
    if shape.op.groups > 1 and shape.out == shape.inner == 1:
        return "depthwise"
    if shape.op.groups > 1 and shape.out % lanes:
        return "spatial"
    filled = shape.out / max(-(-shape.out // lanes) * lanes, 1)
    unit = set(shape.op.stride) == {1} and shape.result[-1] >= lanes
    few = filled < 0.3 and unit and not isinstance(shape.op, ConvWeightGrad)
    return "spatial" if few else "channels"


def _read_wish(shape: Convolution, form: Form, lanes: int) -> Wish:
    """How the tensor that the lines walk is read: in blocks if they do not straddle groups."""
    halo = geometry.halo(shape.lines(), shape.read[2:])
    blocks: tuple[int, ...] = (1, lanes)
    if form == "planes":
        return AS_PLAIN
    if form == "depthwise":
        blocks = (lanes,)
    elif form == "spatial" or (shape.op.groups > 1 and shape.inner % lanes):
        blocks = (1,)
    elif isinstance(shape.op, ConvWeightGrad) and shape.inner >= lanes:
        blocks = (lanes,)
    return Wish(blocks, halo, exact=False)


def predicted_seconds(shape: Convolution, form: Form, site: Site) -> float:
    """Cycles of the register tiles, or memory traffic where that is more."""
    if not shape.lines():
        return 0.0  # the result has no element
    weight_gradient = isinstance(site.op, ConvWeightGrad)
    products = prod(shape.result) * shape.weights[1] * prod(shape.weights[2:]) / site.lanes
    if form == "channels" and weight_gradient:
        cycles = products / UNITS + UNPACKING * prod(shape.weights)
        cycles += SEEN * CLOCK * _weight_gradient_fetch(shape, site)
    elif form == "channels":
        cycles = _tile_cycles(shape, site)
    elif form == "depthwise":
        return _depthwise_seconds(shape, site, products)
    elif form == "planes" and weight_gradient:
        (lines,) = shape.lines()
        filled = -(-lines[-1].count // site.lanes) * site.lanes / max(lines[-1].count, 1)
        cycles = products * filled / UNITS * (1.3 if lines[-1].input[1] == 1 else 3.0)
        cycles += prod(shape.image[:-1]) * COPIED
    else:
        lines = shape.lines()[0]
        unit = lines[-1].input[1] == 1
        row = lines[-1].count
        filled = -(-row // site.lanes) * site.lanes / max(row, 1)
        shared = form == "planes" and planes.row_taps(lines, site.target).shared
        wide, strided = (1.2, 3.5) if shared else (2.2 if shape.out == 1 else 1.2, 5)
        cycles = products / UNITS * (wide * filled if unit else strided)
        cycles += prod(shape.result[:-1]) / 2 * ROW
        cycles += prod(shape.image) * 2 if lines[-1].out[1] > 1 else 0  # stores lane by lane
        cycles *= 1 if not weight_gradient else 1.5
    cycles *= slowness(site.target)
    weights = prod(shape.weights) * site.outputs[0].dtype.itemsize
    moved = (prod(shape.image) + prod(shape.result)) * site.outputs[0].dtype.itemsize
    return max(cycles / CLOCK, moved / stream_bytes(moved), weights / stream_bytes(weights))


def _weight_gradient_fetch(shape: Convolution, site: Site) -> float:
    """Seconds of reading the image for every two vectors of output channels; and the upstream
    gradient, in those channels, for every block of the image's, unless it stays in the cache."""
    itemsize, vectors = site.outputs[0].dtype.itemsize, max(-(-shape.out // site.lanes), 1)
    image, result = (prod(s) * itemsize for s in (shape.image, shape.result))
    slab = 2 * result // (vectors * shape.op.groups)
    again = 1 if slab <= L2 else -(-shape.inner // site.lanes)
    seconds = image * -(-vectors // 2) / stream_bytes(image)
    return seconds + result * again / stream_bytes(result)


def _depthwise_seconds(shape: Convolution, site: Site, products: float) -> float:
    """With whole vectors of channels; the weight gradient reads both images for every few taps."""
    channels = shape.weights[0]
    filled = -(-channels // site.lanes) * site.lanes / channels
    cycles = products * filled / UNITS * 1.5 * slowness(site.target)
    moved = (prod(shape.image) + prod(shape.result)) * site.outputs[0].dtype.itemsize * filled
    passes = 1
    if isinstance(site.op, ConvWeightGrad):
        cycles *= 1.3  # vectors of both images for each product
        passes = -(-prod(shape.weights[2:]) // geometry.TAPS)
    plane = moved * site.lanes / (channels * filled)  # what is read again and again
    return max(cycles / CLOCK, moved / stream_bytes(moved), moved * passes / stream_bytes(plane))


def _tile_cycles(shape: Convolution, site: Site) -> float:
    out_blocks = -(-shape.out // site.lanes)
    cycles = 0.0
    for lines in shape.lines():
        counts = tuple(line.count for line in lines)
        tile = register_tile(site.target, counts[-2:], out_blocks)
        steps = shape.inner * prod(line.taps for line in lines)
        cycles += tile.cycles * prod(counts[:-2]) * steps
    return cycles * shape.image[0] * shape.op.groups


def _no_plain(site: Site, form: Form) -> str | None:
    """Why the form with channels in the lanes cannot write plain data, if it cannot."""
    if isinstance(site.op, ConvWeightGrad):
        return "direct itself writes plain weight gradients"
    if form != "channels":
        return f"direct takes the form {form} here"
    if Epilogue(site, 1).adds_tensors:
        return "the epilogue adds a tensor"
    if len(Convolution.of(site).lines()) > 1:
        return "the stride of the input gradient scatters the result"
    return None


class Direct:
    """The convolution sum itself.

    ``blocked``, the default, takes the form that suits the shape; ``plain`` computes in the lanes
    of output channels and writes plain data, for readers that want it; ``rows`` works on plain
    data throughout.
    """

    reorders_only: ClassVar[bool] = True

    def __init__(self, variant: Literal["blocked", "plain", "rows"] = "blocked") -> None:
        self.variant = variant
        self.name = "direct" if variant == "blocked" else f"direct_{variant}"

    def form(self, site: Site) -> Form:
        shape = Convolution.of(site)
        if self.variant == "plain" and shape.op.groups == 1:
            return "channels"  # though its lanes be few
        if self.variant != "rows":
            return form_of(shape, site.lanes)
        alone = form_of(shape, site.lanes) == "depthwise"
        pads = geometry.halo(shape.lines(), shape.read[2:])
        nbytes = planes.plane_bytes(shape.read, pads, site.outputs[0].dtype.itemsize)
        return "planes" if alone and nbytes <= planes.LARGEST else "spatial"

    def supports(self, site: Site) -> str | None:
        if not isinstance(site.op, OPS):
            return "only for convolutions"
        if self.variant == "rows" and form_of(Convolution.of(site), site.lanes) == "spatial":
            return "direct itself goes by rows here"
        return _no_plain(site, self.form(site)) if self.variant == "plain" else None

    def seconds(self, site: Site) -> float:
        shape = Convolution.of(site)
        seconds = predicted_seconds(shape, self.form(site), site)
        if self.variant == "plain":
            squares = prod(shape.result) / site.lanes**2
            seconds = 1.07 * seconds + squares * TRANSPOSE / CLOCK
        return seconds

    def tolerance(self, site: Site) -> float:
        return 1e-5 if site.dtype == "f32" else 1e-12

    def block(self, site: Site, given: Sequence[int]) -> int:
        plain = self.form(site) in PLAIN_FORMS or isinstance(site.op, ConvWeightGrad)
        return 1 if plain or self.variant == "plain" else site.lanes

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        form = self.form(site)
        walked = _read_wish(Convolution.of(site), form, site.lanes)
        block = 1 if form in PLAIN_FORMS else site.lanes
        if isinstance(site.op, ConvWeightGrad):
            return Wish((block,), exact=False), walked
        main = (walked, AS_PLAIN) if isinstance(site.op, Conv) else (AS_PLAIN, walked)
        return (*main, *Epilogue(site, block).wishes())

    def lower(self, site: Site, into: Lowering) -> None:
        shape, form = Convolution.of(site), self.form(site)
        if isinstance(site.op, ConvWeightGrad):
            _lower_weight_gradient(site, shape, form, into)
        else:
            _lower_correlation(site, shape, form, self.block(site, ()), into)


def _lower_correlation(
    site: Site, shape: Convolution, form: Form, written: int, into: Lowering
) -> None:
    lanes = site.lanes
    walked, weights = (1, 0) if shape.transposed else (0, 1)
    source = into.read(walked)
    packed, form_channels = _weights(site, shape, form, source, weights, into)
    block = 1 if form in PLAIN_FORMS else lanes
    epilogue = Epilogue(site, block)
    extra = epilogue.operands(into)
    pool = into.pool() if form == "channels" and written > 1 else None
    if pool and not _whole_windows(shape, pool, site):
        pool = None
    result = into.write_pooled(written) if pool else into.write(written)

    def make() -> Kernel:
        k = KernelBuilder(f"direct_{form}")
        x = source.image(k, "x")
        w = k.read("w", site.dtype, _weight_view(shape, form_channels, form, lanes))
        finish = epilogue.declare(k, extra)
        y = result.image(k, "y", write=True)
        if form == "planes":
            halo = geometry.halo(shape.lines(), shape.read[2:])
            planes.correlate(k, x, w, y, shape.lines(), halo, finish, site.target)
        for lines in shape.lines() if form != "planes" else ():
            if form == "channels":
                channels.correlate(
                    k, x, w, Output(y, finish, pool), form_channels, lines, site.target
                )
            elif form == "depthwise":
                depthwise.correlate(k, x, w, y, lines, finish, site.target)
            else:
                groups = shape.op.groups
                spatial.correlate(k, x, w, y, groups, lines, finish, lanes, shape.transposed)
        zero_halo(k, y)
        return k.build()

    stored = (source, packed, *extra, result)
    over = () if form == "planes" else extra  # whose last vectors of a row overlap
    into.run(into.kernel((form, pool, *site.kind), stored, make), *stored, over=over)


def _whole_windows(shape: Convolution, pool: Pool, site: Site) -> bool:
    """Whether results lie side by side, and a register tile has room for a window of two vectors of
    them; with fewer, weights are loaded too often."""
    beside = all(line.out == (0, 1) for lines in shape.lines() for line in lines)
    return beside and 2 * prod(pool.window) <= site.target.registers - 4


def _weight_view(shape: Convolution, packing: Channels, form: Form, lanes: int) -> tuple[int, ...]:
    if form == "channels":
        return packing.packed(shape.weights[2:])
    if form == "depthwise":
        return (-(-shape.weights[0] // lanes), *shape.weights[2:], lanes)
    return shape.weights


def _weights(
    site: Site, shape: Convolution, form: Form, source: Stored, operand: int, into: Lowering
) -> tuple[Stored, Channels]:
    """The weights as the form reads them, packed once per graph (or once, when constant)."""
    packing = Channels(shape.op.groups, shape.out, shape.inner, site.lanes, source.layout.block)
    if form in PLAIN_FORMS:
        return into.read(operand), packing
    view, key = _weight_view(shape, packing, form, site.lanes), (form, shape.transposed, packing)

    def kernel() -> Kernel:
        if form == "channels":
            return channels.pack_kernel(site.dtype, shape.weights, packing, shape.transposed)
        return depthwise.pack_kernel(site.dtype, shape.weights, site.lanes)

    def pack(plain: Stored) -> Stored:
        room = into.temporary(f"{site.name}.packed", site.dtype, prod(view))
        into.run(into.kernel(key, (plain, room), kernel), plain, room, label="pack")
        return room

    return into.derive(operand, key, pack), packing


def _lower_weight_gradient(site: Site, shape: Convolution, form: Form, into: Lowering) -> None:
    if form == "spatial":
        _lower_partial_sums(site, shape, into)
        return
    upstream, source = into.read(0), into.read(1)
    k = KernelBuilder(f"direct_{form}_weights")
    g, x = upstream.image(k, "g"), source.image(k, "x")
    (lines,) = shape.lines()
    if form == "channels":
        room, packed = packed_room(site, into)
        dw, groups = k.write("dw", site.dtype, packed), shape.op.groups
        weight_gradient.weight_gradient(k, g, x, dw, groups, lines, site.target)
        into.run(k.build(), upstream, source, room)
        unpack(site, room, into)
        return
    result = into.write()
    dw = k.write("dw", site.dtype, shape.weights)
    if form == "planes":
        halo = geometry.halo(shape.lines(), shape.read[2:])
        planes.weight_gradient(k, g, x, dw, lines, halo, site.lanes)
    else:
        depthwise.weight_gradient(k, g, x, dw, lines)
    into.run(k.build(), upstream, source, result)


def _lower_partial_sums(site: Site, shape: Convolution, into: Lowering) -> None:
    """The weight gradient by rows: a sum for each lane, then the sum of those."""
    upstream, source = into.read(0), into.read(1)
    (lines,) = shape.lines()
    view = spatial.partial_shape(shape.weights, lines[-1].count, site.lanes)
    sums = into.temporary(f"{site.name}.partial", site.dtype, prod(view))
    result = into.write()
    k = KernelBuilder("direct_rows_weights")
    g, x = upstream.image(k, "g"), source.image(k, "x")
    partial = k.write("partial", site.dtype, view)
    spatial.weight_gradient(k, g, x, partial, shape.op.groups, lines, site.lanes)
    into.run(k.build(), upstream, source, sums)
    k = KernelBuilder("add_lanes")
    partial = k.read("partial", site.dtype, view)
    spatial.add_lanes(partial, k.write("dw", site.dtype, shape.weights), k)
    into.run(k.build(), sums, result)
