"""Weight gradients computed in vectors of output channels, brought to [K, C/groups, *taps]."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from convc.algorithms.base import Site
from convc.algorithms.convolution import Convolution
from convc.algorithms.strided import Box, copy
from convc.program import Stored
from convc.schedule import segments
from ir.loops import Kernel, KernelBuilder
from ir.loops.nodes import Scalar

if TYPE_CHECKING:
    from convc.lowering import Lowering

UNPACKING = 1.0  # cycles for each weight, transposed in registers


def packed_room(site: Site, into: Lowering) -> tuple[Stored, tuple[int, ...]]:
    """Room for them, and its shape [groups * out blocks, C/groups, *taps, lanes]."""
    shape = Convolution.of(site)
    blocks = -(-shape.out // site.lanes) * shape.op.groups
    packed = (blocks, *shape.weights[1:], site.lanes)
    return into.temporary(f"{site.name}.packed", site.dtype, prod(packed)), packed


def unpack(site: Site, packed: Stored, into: Lowering) -> None:
    """Append the step that writes the result."""
    shape, result = Convolution.of(site), into.write()
    groups, weights, lanes = shape.op.groups, shape.weights, site.lanes

    def make() -> Kernel:
        return _kernel(site.dtype, weights, groups, lanes)

    into.run(into.kernel(("unpack", groups, weights, lanes), (packed, result), make),
             packed, result, label="unpack")  # fmt: skip


def _kernel(dtype: Scalar, weights: tuple[int, ...], groups: int, lanes: int) -> Kernel:
    k = KernelBuilder("unpack")
    out, rest = weights[0] // groups, prod(weights[1:])
    blocks = -(-out // lanes)
    packed = k.read("packed", dtype, (groups * blocks * rest * lanes,))
    dw = k.write("dw", dtype, (prod(weights),))
    for first, count, width in segments(out, lanes):
        extents = (groups, count, width, rest)
        start = first // lanes * rest * lanes
        source = Box(extents, start, (blocks * rest * lanes, rest * lanes, 1, lanes))
        target = Box(extents, first * rest, (out * rest, width * rest, rest, 1))
        copy(k, dw, target, packed, source, lanes)
    return k.build()
