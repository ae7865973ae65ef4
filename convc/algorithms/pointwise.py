"""Elementwise ops: one loop over all elements, in whatever layout the operands already have.

Operands are boxes of strided elements over the result's extents, with stride 0 where they are
broadcast; so images in blocks of channels may be combined with scalars, with a number per channel,
per example and channel, or per position, without leaving their blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import ir
from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.bodies import BODIES, body
from convc.algorithms.convert import convert_kernel
from convc.algorithms.strided import Box, fill, halo_of, merged, walk
from convc.layout import Layout
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.nodes import Expr, Position, strides
from ir.ops import Elementwise, Expand, Uniform

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored


def program(op: ir.Op) -> Elementwise:
    """The op as a program, of one step unless it is one already."""
    if isinstance(op, Elementwise):
        return op
    count = len(op.operand_names())
    return Elementwise(count, ((op, tuple(range(count))),), (count,))


class Pointwise:
    """One loop over all elements; operands of other shapes are broadcast."""

    name: ClassVar[str] = "pointwise"
    reorders_only: ClassVar[bool] = True

    def supports(self, site: Site) -> str | None:
        elementwise = type(site.op) in BODIES and not isinstance(site.op, Expand)
        if isinstance(site.op, Elementwise):
            elementwise = all(type(op) in BODIES for op, _ in site.op.steps)
        return None if elementwise and not site.epilogue else "only for elementwise ops"

    def seconds(self, site: Site) -> float:
        return site.op.cost(*site.inputs).bytes / 60e9

    def tolerance(self, site: Site) -> float:
        return 1e-6 if site.dtype == "f32" else 1e-14

    def block(self, site: Site, given: Sequence[int]) -> int:
        """The largest block of a whole image among the operands, or else of any image."""
        images = _images(site)
        whole = [operand for operand in images if site.shape(operand) == site.result]
        return max((given[operand] for operand in whole or images), default=1)

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        images, image = _images(site), Wish((1, site.lanes), exact=False)
        return tuple(image if i in images else AS_PLAIN for i in range(len(site.inputs)))

    def lower(self, site: Site, into: Lowering) -> None:
        block = self.block(site, [into.block(operand) for operand in range(len(site.inputs))])
        view = _View(site, into, block)
        read = [view.read(operand) for operand in range(len(site.inputs))]
        written = [
            into.write(block if len(site.result) > 2 else None, number)
            for number in range(len(site.outputs))
        ]
        boxes = [view.rows, *map(view.of, written), *(box for _, box in read)]
        loop = _Loop(site, merged(*boxes))
        loop.declare([value for value, _ in read], written)
        walk(loop.k, loop.boxes[0].extents, site.lanes, loop.element)
        operands = [value for value, _ in read]
        into.run(loop.k.build(), *operands, *written, over=operands)


class _Loop:
    """The kernel of a site's program; ``boxes`` are those of the positions, results, operands."""

    def __init__(self, site: Site, boxes: Sequence[Box]) -> None:
        self.site, self.boxes, self.program = site, boxes, program(site.op)
        self.k = KernelBuilder(site.op.name)
        self.inputs: list[Buffer] = []
        self.outputs: list[Buffer] = []

    def declare(self, read: Sequence[Stored], written: Sequence[Stored]) -> None:
        """The parameters; what surrounds the results is zeroed."""
        self.inputs = [self.k.read("x", value.dtype, (_size(value),)) for value in read]
        self.outputs = [self.k.write("y", value.dtype, (_size(value),)) for value in written]
        for y, value in zip(self.outputs, written, strict=True):
            for halo in halo_of(value):
                fill(self.k, y, halo, 0.0, self.site.lanes)

    def element(self, at: tuple[Affine, ...], lane: Affine) -> None:
        """Run the program on one element."""
        places, *boxes = self.boxes
        results = [y[box.at(at)] for y, box in zip(self.outputs, boxes, strict=False)]
        boxes = boxes[len(results) :]
        values: list[Expr] = [x[box.at(at)] for x, box in zip(self.inputs, boxes, strict=True)]
        types = [x.dtype for x in self.inputs]
        for op, args in self.program.steps:
            operands = [values[arg] for arg in args]
            if isinstance(op, Uniform):
                operands.append(Position(places.at(at)))
            dtype = types[args[0]] if args else self.site.dtype
            value = body(self.site.name, op, dtype, operands)
            if len(self.program.steps) > 1 or len(results) > 1:  # else it is computed once anyway
                kept = self.k.local("t", self.site.dtype, (self.site.lanes,))
                self.k.store(kept[lane], value)
                value = kept[lane]
            values.append(value)
            types.append(self.site.dtype)
        for target, number in zip(results, self.program.results, strict=True):
            self.k.store(target, values[number])


def _aligned(site: Site, operand: int) -> tuple[int, ...]:
    """The operand's shape with axes of extent 1 in front, as numpy aligns it; a bias on axis 1."""
    shape, rank = site.shape(operand), len(site.result)
    if operand in program(site.op).biases:
        return (1, *shape, *(1,) * (rank - 2))
    return (1,) * (rank - len(shape)) + shape


def _images(site: Site) -> list[int]:
    """The operands that may lie in blocks of the result's channels, where those are blocked."""
    rank = len(site.result)
    mixed = any(type.dtype is not site.outputs[0].dtype and type.rank for type in site.inputs)
    if rank < 3 or mixed:
        return []
    shapes = [site.shape(operand) for operand in range(len(site.inputs))]
    return [i for i, s in enumerate(shapes) if len(s) == rank and s[1] == site.result[1]]


@dataclass(frozen=True)
class _View:
    """The operands and results of a site, over the extents of the results in their blocks."""

    site: Site
    into: Lowering
    block: int

    def of(self, result: Stored) -> Box:
        """Where the elements of a result lie."""
        if len(self.site.result) < 3:
            return Box.whole(self.site.result)
        return Box.blocks(result.layout, self.site.result)

    @property
    def extents(self) -> tuple[int, ...]:
        if len(self.site.result) < 3:
            return self.site.result
        return Box.blocks(Layout(self.block), self.site.result).extents

    @property
    def rows(self) -> Box:
        """The place of every element in row-major order."""
        if len(self.site.result) < 3:
            return Box.whole(self.site.result)
        n, c, *rest = strides(self.site.result)
        return Box(self.extents, 0, (n, c * self.block, *rest, c))

    def read(self, operand: int) -> tuple[Stored, Box]:
        """An operand as it is read, and where its elements lie."""
        shape = _aligned(self.site, operand)
        if len(shape) < 3:
            stored, box = self.into.read(operand), Box.whole(shape)
        elif operand in _images(self.site):
            stored = self.into.read(operand, self.block)
            box = Box.blocks(stored.layout, shape)
        elif shape[1] == self.site.result[1] > 1:
            stored = self._in_blocks(operand, shape)
            box = Box.blocks(stored.layout, shape)
        else:
            stored, box = self.into.read(operand), Box.blocks(Layout(), shape)
        return stored, box.repeated(self.extents)

    def _in_blocks(self, operand: int, shape: tuple[int, ...]) -> Stored:
        """An operand without a batch axis, as an image in the result's blocks."""

        def convert(plain: Stored) -> Stored:
            image = replace(plain, type=plain.type.with_shape(*shape))
            if self.block == 1:
                return image
            layout = Layout(self.block)
            room = self.into.temporary("blocked", plain.dtype, layout.size(shape))
            room = replace(room, type=image.type, layout=layout)
            kernel = convert_kernel(image, room, self.site.target)
            self.into.run(kernel, image, room, label="convert")
            return room

        return self.into.derive(operand, ("image", shape, self.block), convert)


def _size(stored: Stored) -> int:
    return stored.layout.size(stored.shape)
