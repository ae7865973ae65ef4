"""Direct convolution: the sum as it is written, in all three directions and for every shape.

Three forms share the work. ``channels`` puts output channels in the lanes of a vector,
``depthwise`` the channels of a convolution that mixes none, ``spatial`` the last image axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.direct import channels, depthwise, geometry, spatial, weight_gradient
from convc.algorithms.direct.channels import Channels
from convc.algorithms.direct.geometry import Lines
from convc.algorithms.epilogue import Epilogue
from convc.layout import zero_halo
from ir.loops import KernelBuilder
from ir.ops import Conv, ConvInputGrad, ConvWeightGrad

if TYPE_CHECKING:
    from convc.lowering import Lowering, Stored

Form = Literal["channels", "depthwise", "spatial"]
OPS = (Conv, ConvInputGrad, ConvWeightGrad)


@dataclass(frozen=True)
class _Shape:
    """A convolution, whichever direction: K and C per group, sizes of the three tensors."""

    op: geometry.Convolution
    image: tuple[int, ...]  # [N, C, *S]
    weights: tuple[int, ...]  # [K, C/groups, *k]
    result: tuple[int, ...]  # [N, K, *out]

    @staticmethod
    def of(site: Site) -> _Shape:
        op = site.op
        first, second, third = site.shape(0), site.shape(1), site.result
        if isinstance(op, Conv):
            return _Shape(op, first, second, third)
        if isinstance(op, ConvInputGrad):
            return _Shape(op, third, first, second)
        assert isinstance(op, ConvWeightGrad)
        return _Shape(op, second, third, first)

    @property
    def transposed(self) -> bool:
        return isinstance(self.op, ConvInputGrad)

    @property
    def out(self) -> int:
        """Channels per group that the vector form computes side by side."""
        return self.weights[1] if self.transposed else self.weights[0] // self.op.groups

    @property
    def inner(self) -> int:
        return self.weights[0] // self.op.groups if self.transposed else self.weights[1]

    def lines(self) -> list[Lines]:
        """One set of lines, or one for each residue of a transposed stride."""
        kernel = self.weights[2:]
        if isinstance(self.op, ConvInputGrad):
            return geometry.transposed(self.op, kernel, self.image[2:])
        return [geometry.forward(self.op, kernel, self.result[2:])]

    @property
    def read(self) -> tuple[int, ...]:
        """The shape of the tensor that the lines walk."""
        return self.result if self.transposed else self.image

    def form(self, lanes: int) -> Form:
        if self.op.groups > 1 and self.out == self.inner == 1:
            return "depthwise"
        if self.op.groups > 1 and self.out % lanes:
            return "spatial"
        filled = self.out / max(-(-self.out // lanes) * lanes, 1)
        unit = set(self.op.stride) == {1} and self.result[-1] >= lanes
        few = filled < 0.3 and unit and not isinstance(self.op, ConvWeightGrad)
        return "spatial" if few else "channels"

    def read_wish(self, lanes: int) -> Wish:
        """How the tensor that the lines walk is read: in blocks if they do not straddle groups."""
        halo = geometry.halo(self.lines(), self.read[2:])
        form = self.form(lanes)
        blocks: tuple[int, ...] = (1, lanes)
        if form == "depthwise":
            blocks = (lanes,)
        elif form == "spatial" or (self.op.groups > 1 and self.inner % lanes):
            blocks = (1,)
        return Wish(blocks, halo, exact=False)


class Direct:
    """The convolution sum itself, blocked by the vector width and tiled in registers."""

    name: ClassVar[str] = "direct"
    reorders_only: ClassVar[bool] = True

    def supports(self, site: Site) -> str | None:
        return None if isinstance(site.op, OPS) else "only for convolutions"

    def seconds(self, site: Site) -> float:
        return site.op.cost(*site.inputs[: len(site.op.operand_names())]).flops / 100e9

    def tolerance(self, site: Site) -> float:
        return 1e-5 if site.dtype == "f32" else 1e-12

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        shape = _Shape.of(site)
        walked = shape.read_wish(site.lanes)
        form = shape.form(site.lanes)
        block = 1 if form == "spatial" else site.lanes
        if isinstance(site.op, ConvWeightGrad):
            return Wish((block,), exact=False), walked
        main = (walked, AS_PLAIN) if isinstance(site.op, Conv) else (AS_PLAIN, walked)
        return (*main, *Epilogue(site, block).wishes())

    def lower(self, site: Site, into: Lowering) -> None:
        shape = _Shape.of(site)
        if isinstance(site.op, ConvWeightGrad):
            _lower_weight_gradient(site, shape, into)
        else:
            _lower_correlation(site, shape, into)


def _lower_correlation(site: Site, shape: _Shape, into: Lowering) -> None:
    form, lanes = shape.form(site.lanes), site.lanes
    walked, weights = (1, 0) if shape.transposed else (0, 1)
    source = into.read(walked)
    packed, form_channels = _weights(site, shape, source, weights, into)
    block = 1 if form == "spatial" else lanes
    epilogue = Epilogue(site, block)
    extra = epilogue.operands(into)
    result = into.write(block)
    k = KernelBuilder(f"direct_{form}")
    x = source.image(k, "x")
    w = k.read("w", site.dtype, _weight_view(shape, form_channels, form, lanes))
    finish = epilogue.declare(k, extra)
    y = result.image(k, "y", write=True)
    for lines in shape.lines():
        if form == "channels":
            channels.correlate(k, x, w, y, form_channels, lines, finish, site.target)
        elif form == "depthwise":
            depthwise.correlate(k, x, w, y, lines, finish)
        else:
            groups = shape.op.groups
            spatial.correlate(k, x, w, y, groups, lines, finish, lanes, shape.transposed)
    zero_halo(k, y)
    into.run(k.build(), source, packed, *extra, result)


def _weight_view(
    shape: _Shape, packing: Channels, form: Form, lanes: int
) -> tuple[int, ...]:
    if form == "channels":
        return packing.packed(shape.weights[2:])
    if form == "depthwise":
        return (-(-shape.weights[0] // lanes), *shape.weights[2:], lanes)
    return shape.weights


def _weights(
    site: Site, shape: _Shape, source: Stored, operand: int, into: Lowering
) -> tuple[Stored, Channels]:
    """The weights as the form reads them, packed once per graph (or once, when constant)."""
    form = shape.form(site.lanes)
    packing = Channels(shape.op.groups, shape.out, shape.inner, site.lanes, source.layout.block)
    if form == "spatial":
        return into.read(operand), packing
    view = _weight_view(shape, packing, form, site.lanes)

    def pack(plain: Stored) -> Stored:
        if form == "channels":
            kernel = channels.pack_kernel(site.dtype, shape.weights, packing, shape.transposed)
        else:
            kernel = depthwise.pack_kernel(site.dtype, shape.weights, site.lanes)
        room = into.temporary(f"{site.name}.packed", site.dtype, prod(view))
        into.run(kernel, plain, room, label="pack")
        return room

    return into.derive(operand, (form, shape.transposed, packing), pack), packing


def _lower_weight_gradient(site: Site, shape: _Shape, into: Lowering) -> None:
    form = shape.form(site.lanes)
    upstream, source, result = into.read(0), into.read(1), into.write()
    k = KernelBuilder(f"direct_{form}_weights")
    g, x = upstream.image(k, "g"), source.image(k, "x")
    dw = k.write("dw", site.dtype, shape.weights)
    (lines,) = shape.lines()
    if form == "channels":
        groups = shape.op.groups
        weight_gradient.weight_gradient(k, g, x, dw, groups, lines, site.target)
    elif form == "depthwise":
        depthwise.weight_gradient(k, g, x, dw, lines)
    else:
        spatial.weight_gradient(k, g, x, dw, shape.op.groups, lines)
    into.run(k.build(), upstream, source, result)
