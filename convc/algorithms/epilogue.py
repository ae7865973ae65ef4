"""The elementwise ops fused into an op's store: bias, rectifier, residual add and others."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import ir
from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.bodies import body
from convc.algorithms.convert import channel_vector_kernel
from convc.pooling import Pool
from ir.loops import Affine, KernelBuilder
from ir.loops.builder import maximum
from ir.loops.nodes import Expr, Index
from ir.ops import AveragePool, Bias
from ir.ops.fused import running_operand

if TYPE_CHECKING:
    from convc.layout import Image
    from convc.lowering import Lowering
    from convc.program import Stored


Step = Callable[[Expr, tuple[Index, ...]], Expr]  # value, subscript in the result's image
Operand = Callable[[tuple[Index, ...]], Expr]  # its element at such a subscript


class Epilogue:
    """What follows the root op of a site, the result being written in blocks of ``block``.

    Beside the running result an op reads a tensor of its rank with all channels, broadcast along
    other axes or not; or a number for each channel; or one number.
    """

    def __init__(self, site: Site, block: int) -> None:
        self.site, self.block = site, block
        first = len(site.op.operand_names())
        binary = (op for op in site.epilogue if len(op.operand_names()) > 1)
        self.extra = list(enumerate(binary, first))

    def wishes(self) -> tuple[Wish, ...]:
        """Tensors are read in the result's blocks, the rest as given, and padded here."""
        same = Wish((self.block,), exact=False)
        return tuple(same if self._is_tensor(number) else AS_PLAIN for number, _ in self.extra)

    @property
    def adds_tensors(self) -> bool:
        """Whether an operand has as many axes as the result."""
        return any(self._is_tensor(number) for number, _ in self.extra)

    def _is_tensor(self, operand: int) -> bool:
        shape, result = self.site.shape(operand), self.site.result
        return len(shape) == len(result) and shape[1] == result[1]

    def operands(self, into: Lowering) -> list[Stored]:
        """The operands beyond the root's, in order."""
        return [
            into.read(number)
            if self._is_tensor(number) or not self._is_vector(number, op)
            else channel_vector(into, number, self.block)
            for number, op in self.extra
        ]

    def _is_vector(self, operand: int, op: ir.Op) -> bool:
        """Whether it holds a number for each channel; that of a lone channel is one number."""
        return isinstance(op, Bias) or max(self.site.shape(operand), default=1) > 1

    def declare(self, k: KernelBuilder, stored: Sequence[Stored]) -> Step:
        """Parameters for the operands; returns what finishes a value at an image subscript."""
        read = iter(
            self._operand(k, number, op, value)
            for (number, op), value in zip(self.extra, stored, strict=True)
        )
        steps = [
            (op, next(read) if len(op.operand_names()) > 1 else None) for op in self.site.epilogue
        ]

        def finish(value: Expr, at: tuple[Index, ...]) -> Expr:
            for op, operand in steps:
                args = [value]
                if operand is not None:
                    args.insert(1 - running_operand(op), operand(at))
                value = body(self.site.name, op, self.site.dtype, args)
            return value

        return finish

    def _operand(self, k: KernelBuilder, number: int, op: ir.Op, stored: Stored) -> Operand:
        if self._is_tensor(number):
            return _element(stored.image(k, op.name), self.site.result)
        size = stored.type.size
        assert isinstance(size, int)
        vector = k.read(op.name, self.site.dtype, (size,))
        if self._is_vector(number, op):
            return lambda at: vector[Affine.of(at[1]) * self.block + at[-1]]
        return lambda at: vector[0]


@dataclass(frozen=True)
class Output:
    """Where results go: what ``finish`` makes of them, or what a ``pool`` makes of that."""

    y: Image
    finish: Step
    pool: Pool | None

    def window(self, rank: int) -> tuple[int, ...]:
        return self.pool.window if self.pool else (1,) * rank

    def pooled(self, k: KernelBuilder, values: Sequence[Expr]) -> Expr:
        """What is stored for the values of a window."""
        if isinstance(self.pool, AveragePool):
            total = reduce(operator.add, values)
            cells = k.constant(len(values), self.y.buffer.dtype)
            return total if self.pool.divisor == "one" else total / cells
        return reduce(maximum, values)


def _element(image: Image, result: tuple[int, ...]) -> Operand:
    """The element of an image that is broadcast along the axes where its extent is 1."""
    repeated = [n == 1 != m for n, m in zip(image.shape, result, strict=True)]

    def element(at: tuple[Index, ...]) -> Expr:
        index = list(at)
        for axis in (axis for axis, once in enumerate(repeated) if once):
            index[axis] = 0
        return image[tuple(index)]

    return element


def channel_vector(into: Lowering, operand: int, block: int) -> Stored:
    """A number per channel, padded to whole blocks."""

    def pad(plain: Stored) -> Stored:
        channels = max(plain.shape)
        if channels % block == 0:
            return plain
        room = into.temporary("padded", plain.dtype, -(-channels // block) * block)
        into.run(channel_vector_kernel(plain.dtype, channels, room.shape[0]), plain, room,
                 label="pack")  # fmt: skip
        return room

    return into.derive(operand, ("channel vector", block), pad)
