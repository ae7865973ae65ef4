"""Convolution along one axis as a correlation, the same form forward and transposed.

    out[o + os*q] += in[i + is*q + it*t] * w[m + ms*t]        0 <= q < count, 0 <= t < taps

The forward convolution is one such line per axis. Its transpose splits into one line per residue
of the output position modulo the stride: each is a convolution of unit stride with every
``stride``-th tap (Goodfellow et al. 2016, eq. 9.13, sorted by output position).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd, prod

from convc.backend.target import Target
from convc.layout import Pads
from ir.loops import Affine
from ir.loops.nodes import Index
from ir.ops.conv import Conv, ConvInputGrad, ConvWeightGrad

ConvolutionOp = Conv | ConvInputGrad | ConvWeightGrad
TAPS = 12  # of a depthwise weight gradient, that are summed at once


@dataclass(frozen=True)
class Line:
    """One axis: starts and steps of the output, of the input (per position, per tap), of w."""

    count: int
    taps: int
    out: tuple[int, int]
    input: tuple[int, int, int]
    weight: tuple[int, int]

    def out_at(self, q: Affine) -> Affine:
        return q * self.out[1] + self.out[0]

    def in_at(self, q: Affine, t: Index) -> Affine:
        return q * self.input[1] + t * self.input[2] + self.input[0]

    def weight_at(self, t: Index) -> Index:
        return t * self.weight[1] + self.weight[0]

    def reach(self) -> tuple[int, int]:
        """The first and last input position that is read."""
        start, step, tap = self.input
        ends = (0, tap * (self.taps - 1))
        return start + min(ends), start + step * (self.count - 1) + max(ends)


Lines = tuple[Line, ...]


@dataclass(frozen=True)
class Taps:
    """The taps of lines: some axes in loops m0, m1, ..., others written out one after the other.

    All are written out if they are no more than ``most``, else those along ``tiled`` alone: results
    side by side along that axis share much of what they read, which then stays in registers.
    """

    lines: Lines
    tiled: int
    most: int

    @property
    def loops(self) -> dict[str, range]:
        """The axes of the reduction that remain."""
        if prod(line.taps for line in self.lines) <= self.most:
            return {}
        few = self.lines[self.tiled].taps <= self.most
        return {
            f"m{axis}": range(line.taps)
            for axis, line in enumerate(self.lines)
            if not (few and axis == self.tiled)
        }

    @property
    def shared(self) -> bool:
        """Whether some are written out."""
        return len(self.loops) < len(self.lines)

    def at(self, point: Mapping[str, Affine]) -> Iterator[list[Index]]:
        """The taps along all axes, for every one that is written out at a point of the loops."""
        looped = self.loops
        axes = (
            (point[name],) if (name := f"m{axis}") in looped else range(line.taps)
            for axis, line in enumerate(self.lines)
        )
        yield from map(list, product(*axes))


def at_once(target: Target) -> int:
    """How many sums, or taps, of a depthwise convolution leave registers to what is read."""
    return target.registers * 3 // 8


def forward(op: ConvolutionOp, kernel: Sequence[int], out: Sequence[int]) -> Lines:
    """The lines of ``y = conv(x, w)``, which its weight gradient walks too."""
    return tuple(
        Line(count, taps, (0, 1), (-low, stride, dilation), (0, 1))
        for count, taps, stride, dilation, (low, _) in zip(
            out, kernel, op.stride, op.dilation, op.pads, strict=True
        )
    )


def transposed(op: ConvInputGrad, kernel: Sequence[int], size: Sequence[int]) -> list[Lines]:
    """The lines of ``x = conv_input_grad(w, g)``: one tuple for each combination of residues."""
    axes = zip(size, kernel, op.stride, op.dilation, op.pads, strict=True)
    return [
        lines
        for lines in product(*(_residues(n, k, s, d, low) for n, k, s, d, (low, _) in axes))
        if all(line.count for line in lines)
    ]


def _residues(size: int, kernel: int, stride: int, dilation: int, low: int) -> list[Line]:
    """Position a receives tap m of output j where a + low = j*stride + m*dilation."""
    lines = []
    step = stride // gcd(stride, dilation)
    for first in range(min(stride, size)):
        count = -(-(size - first) // stride)
        meets = [m for m in range(kernel) if (first + low - m * dilation) % stride == 0]
        start = meets[0] if meets else 0
        lines.append(
            Line(
                count,
                len(meets),
                (first, stride),
                ((first + low - start * dilation) // stride, 1, -(step * dilation) // stride),
                (start, step),
            )
        )
    return lines


def halo(lines: Sequence[Lines], extents: Sequence[int]) -> Pads:
    """How far outside an input of these extents the lines read, on each side."""
    pads = []
    for axis, n in enumerate(extents):
        ends = [line[axis].reach() for line in lines if all(each.taps for each in line)]
        low = max((-first for first, _ in ends), default=0)
        high = max((last - n + 1 for _, last in ends), default=0)
        pads.append((max(low, 0), max(high, 0)))
    return tuple(pads)


def tap_tile(lines: Lines) -> tuple[tuple[str, int], ...]:
    """Of the taps m0, m1, ... of a depthwise weight gradient, those that are summed at once, each
    in a register: as many as there are, for every pass reads the images again."""
    last, wide = len(lines) - 1, min(lines[-1].taps, TAPS)
    return (*([(f"m{last - 1}", max(1, TAPS // wide))] if last else []), (f"m{last}", wide))
