"""A convolution in any of its three directions, as every algorithm for it sees it."""

from __future__ import annotations

from dataclasses import dataclass

from convc.algorithms.base import Site
from convc.algorithms.geometry import ConvolutionOp, Lines, forward, transposed
from ir.ops import Conv, ConvInputGrad, ConvWeightGrad

OPS = (Conv, ConvInputGrad, ConvWeightGrad)


@dataclass(frozen=True)
class Convolution:
    """A convolution, whichever direction: K and C per group, sizes of the three tensors."""

    op: ConvolutionOp
    image: tuple[int, ...]  # [N, C, *S]
    weights: tuple[int, ...]  # [K, C/groups, *k]
    result: tuple[int, ...]  # [N, K, *out]

    @staticmethod
    def of(site: Site) -> Convolution:
        op = site.op
        first, second, third = site.shape(0), site.shape(1), site.result
        if isinstance(op, Conv):
            return Convolution(op, first, second, third)
        if isinstance(op, ConvInputGrad):
            return Convolution(op, third, first, second)
        assert isinstance(op, ConvWeightGrad)
        return Convolution(op, second, third, first)

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
            return transposed(self.op, kernel, self.image[2:])
        return [forward(self.op, kernel, self.result[2:])]

    @property
    def read(self) -> tuple[int, ...]:
        """The shape of the tensor that the lines walk."""
        return self.result if self.transposed else self.image
