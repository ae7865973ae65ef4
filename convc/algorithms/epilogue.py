"""The pointwise ops fused into an op's store: bias, relu, residual add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.convert import channel_vector_kernel
from convc.layout import Image
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import call, select
from ir.loops.nodes import Expr, Index, Scalar
from ir.ops import Bias, Relu

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored


Step = Callable[[Expr, tuple[Index, ...]], Expr]  # value, subscript in the result's image


class Epilogue:
    """What follows the root op of a site, the result being written in blocks of ``block``."""

    def __init__(self, site: Site, block: int) -> None:
        self.site, self.block = site, block
        self.first = len(site.op.operand_names())
        self.extra = [op for op in site.epilogue if not isinstance(op, Relu)]

    def wishes(self) -> tuple[Wish, ...]:
        """A bias is read as given and padded here; an addend in the result's blocks."""
        same = Wish((self.block,), exact=False)
        return tuple(AS_PLAIN if isinstance(op, Bias) else same for op in self.extra)

    def operands(self, into: Lowering) -> list[Stored]:
        """The operands beyond the root's, in order."""
        return [
            channel_vector(into, self.first + number, self.block)
            if isinstance(op, Bias)
            else into.read(self.first + number)
            for number, op in enumerate(self.extra)
        ]

    def declare(self, k: KernelBuilder, stored: Sequence[Stored]) -> Step:
        """Parameters for the operands; returns what finishes a value at an image subscript."""
        steps: list[Step] = []
        operands = iter(stored)
        for op in self.site.epilogue:
            if isinstance(op, Relu):
                steps.append(lambda value, _: relu(k, value, self.site.dtype))
            elif isinstance(op, Bias):
                vector = k.read("bias", self.site.dtype, next(operands).shape)
                steps.append(self._biased(vector))
            else:
                addend = next(operands).image(k, "addend")
                steps.append(_added(addend))

        def finish(value: Expr, index: tuple[Index, ...]) -> Expr:
            for step in steps:
                value = step(value, index)
            return value

        return finish

    def _biased(self, vector: Buffer) -> Step:
        return lambda value, at: value + vector[Affine.of(at[1]) * self.block + at[-1]]


def _added(addend: Image) -> Step:
    return lambda value, at: value + addend[at]


def relu(k: KernelBuilder, value: Expr, dtype: Scalar) -> Expr:
    """max(value, 0) with NaN kept: one instruction where written as a selection."""
    zero = k.constant(0, dtype)
    return select(call("lt", value, zero), zero, value)


def channel_vector(into: Lowering, operand: int, block: int) -> Stored:
    """A per-channel vector [C], padded to whole blocks."""

    def pad(plain: Stored) -> Stored:
        channels = plain.shape[0]
        if channels % block == 0:
            return plain
        room = into.temporary("padded", plain.dtype, -(-channels // block) * block)
        into.run(channel_vector_kernel(plain.dtype, channels, room.shape[0]), plain, room,
                 label="pack")  # fmt: skip
        return room

    return into.derive(operand, ("channel vector", block), pad)
