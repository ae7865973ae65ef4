"""The one-dimensional passes of a separable convolution, fused through the cache.

A task makes a strip of output rows. The first pass reads the image along its first axis and
leaves its sums in a scratch; each further pass takes one more axis, the last writes the output.

    s0[i, q0, h1.., hL] = sum over t0 of x[i, q0*S0 + t0*D0 - lo0, h1, ..] * f0[t0]
    s1[i, q0, q1, ..]   = sum over t1 of s0[i, q0, q1*S1 + t1*D1, ..] * f1[t1]
    y[.., qL]           = sum over i, tL of sK[i, .., qL*SL + tL*DL] * fL[tL]

Scratch lines have margins of zeros, so the image needs no halo; rows outside of it are skipped,
by tests that the strips in the middle do not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from convc.algorithms.convolution import Convolution
from convc.algorithms.epilogue import Step
from convc.algorithms.geometry import Line
from convc.backend.target import Target
from convc.layout import Image
from convc.schedule import Nest, Point, Schedule, Segment, lower, segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Index, Load, Scalar

Form = Literal["depthwise", "mixing", "spatial"]
Update = Callable[[Point, Expr], Expr]
Store = Callable[[Point, Expr], tuple[Load, Expr]]

SCRATCH = 32 << 10  # bytes of a task's scratch, which the first-level cache should keep
UNROLLED = 600  # multiply-adds of a tile up to which its taps are unrolled, to share loads
FEW = 3  # taps up to which a pass over rows is bound by memory: read long pieces of few rows


@dataclass(frozen=True)
class Passes:
    """A convolution by sums of ``terms`` products of one-dimensional kernels.

    ``form`` says what the lanes are: the channels of a depthwise convolution, the output channels
    of one that mixes, or neighbours on the last axis of plain data.
    """

    shape: Convolution
    terms: int
    form: Form
    itemsize: int
    lanes: int
    accumulators: int

    @staticmethod
    def of(shape: Convolution, terms: int, form: Form, itemsize: int, target: Target) -> Passes:
        lanes = target.vector_bytes // itemsize
        return Passes(shape, terms, form, itemsize, lanes, target.registers // 2)

    @property
    def lines(self) -> tuple[Line, ...]:
        (lines,) = self.shape.lines()
        return lines

    @property
    def spatial(self) -> bool:
        return self.form == "spatial"

    @property
    def groups(self) -> int:
        return self.shape.op.groups if self.spatial else 1

    @property
    def outs(self) -> int:
        """Output channels of a group, or vectors of them."""
        return self.shape.out if self.spatial else -(-self.shape.weights[0] // self.lanes)

    @property
    def inner(self) -> int:
        return self.shape.weights[1]

    @property
    def depth(self) -> int:
        """Elements of a scratch cell."""
        return 1 if self.spatial else self.lanes

    @property
    def first(self) -> int:
        """The position on the last axis that scratch lines start with."""
        return self.lines[-1].reach()[0]

    @property
    def line(self) -> int:
        """Cells of a scratch line: the inputs of all outputs."""
        return self.lines[-1].reach()[1] - self.first + 1

    @property
    def inside(self) -> range:
        """The cells of a scratch line that lie in the image."""
        start = min(max(-self.first, 0), self.line)
        return range(start, max(start, min(self.shape.image[-1] - self.first, self.line)))

    @property
    def rows(self) -> int:
        """Output rows of a strip."""
        row = self.inner * self.terms * self.line * self.depth * self.itemsize
        return max(1, min(SCRATCH // row, self.accumulators, self.lines[-2].count))

    def factor(self, axis: int) -> tuple[int, ...]:
        """Shape of the factors of an axis: [outs, inner, terms, taps, lanes]."""
        return self.groups * self.outs, self.inner, self.terms, self.lines[axis].taps, self.depth

    def regions(self, axis: int) -> tuple[range, ...]:
        """Output positions whose windows overhang the image, those between that do not."""
        line, size = self.lines[axis], self.shape.image[2 + axis]
        start, step, tap = line.input
        first = min(max(-(start // step), 0), line.count)
        last = (size - 1 - tap * (line.taps - 1) - start) // step + 1
        last = max(first, min(last, line.count))
        return range(first), range(first, last), range(last, line.count)

    def tile(self, taps: int) -> tuple[int, int]:
        """Rows and vectors of accumulators: tall where the taps of a column share loads."""
        half = self.accumulators // 2
        if self.form == "mixing":
            return 1, self.accumulators
        return (2, half) if taps <= FEW else (half, 2)


def correlate(
    k: KernelBuilder, passes: Passes, x: Image, factors: Sequence[Buffer], y: Image, finish: Step
) -> None:
    """Append ``y = finish(x correlated with the products of the factors)``."""
    heads = [(f"q{axis}", line.count) for axis, line in enumerate(passes.lines[:-2])]
    interior = passes.regions(len(heads))[1]
    for first, strips, rows in segments(passes.regions(len(heads)), passes.rows):
        with ExitStack() as loops:
            outer = [("n", x.shape[0]), ("g", passes.groups), ("o", passes.outs), *heads]
            at = [loops.enter_context(k.loop(*each, "parallel")) for each in outer]
            row = loops.enter_context(k.loop("q", strips, "parallel")) * rows + first
            out = at[1] * passes.outs + at[2]
            counts = (*(1 for _ in heads), rows)
            clear = not heads and first in interior
            start = (*at[3:], row)
            strip = _Strip(k, passes, x.buffer.dtype, at[0], at[1], out, start, counts, clear)
            strip.run(x, factors, y, finish)


@dataclass(frozen=True)
class _Strip:
    """Some rows of one output channel, or of one vector of them; ``clear`` of the borders."""

    k: KernelBuilder
    passes: Passes
    dtype: Scalar
    n: Affine
    group: Affine
    out: Affine
    start: tuple[Affine, ...]
    count: tuple[int, ...]
    clear: bool

    def run(self, x: Image, factors: Sequence[Buffer], y: Image, finish: Step) -> None:
        sums: Buffer | None = None
        for axis, factor in enumerate(factors[:-1]):
            sums = self._pass(axis, x, sums, factor)
        assert sums is not None
        self._zero_margins(sums)
        self._last_pass(sums, factors[-1], y, finish)

    @property
    def _rows(self) -> list[str]:
        return [f"r{axis}" for axis in range(len(self.count))]

    def _scratch(self, axis: int, factor: Buffer) -> Buffer:
        """What the pass over ``axis`` leaves: on the axes after it, all that later ones read."""
        rows = list(self.count)
        for other in range(axis + 1, len(rows)):
            line = self.passes.lines[other]
            rows[other] = (rows[other] - 1) * line.input[1] + line.input[2] * (line.taps - 1) + 1
        shape = (self.passes.inner, self.passes.terms, *rows, self.passes.line, self.passes.depth)
        return self.k.local("sums", factor.dtype, shape)

    def _columns(self, *parts: range) -> list[Segment]:
        """Cuts of a line: the first cell, the number of steps, the lanes."""
        if self.passes.spatial:
            return segments(parts, self.passes.lanes)
        return [(part.start, len(part), self.passes.lanes) for part in parts if part]

    def _column(self, p: Point, first: int) -> Affine:
        """The cell of a point of a cut that starts with the cell ``first``."""
        if self.passes.spatial:
            return p["j"] * self.passes.lanes + p["v"] + first
        return p["j"] + first

    def _lane(self, p: Point) -> Index:
        return 0 if self.passes.spatial else p["v"]

    def _weight(self, factor: Buffer, p: Point) -> Load:
        return factor[self.out, p["i"], p["z"], p["t"], self._lane(p)]

    def _cell(self, scratch: Buffer, p: Point, first: int) -> Load:
        rows = (p[row] for row in self._rows)
        return scratch[(p["i"], p["z"], *rows, self._column(p, first), self._lane(p))]

    def _pass(self, axis: int, x: Image, sums: Buffer | None, factor: Buffer) -> Buffer:
        """Sum along an axis but the last: first of the image, then of what the sums so far are."""
        scratch, line = self._scratch(axis, factor), self.passes.lines[axis]
        for first, count, width in self._columns(self.passes.inside):

            def update(p: Point, acc: Expr, first: int = first) -> Expr:
                if sums is None:
                    at = (*self._reads(p), self._column(p, first) + self.passes.first)
                    element = self._element(x, p, at)
                else:
                    row = p[f"r{axis}"] * line.input[1] + p["t"] * line.input[2]
                    element = self._cell(sums, {**p, f"r{axis}": row}, first)
                return fma(element, self._weight(factor, p), acc)

            def store(p: Point, acc: Expr, first: int = first) -> tuple[Load, Expr]:
                return self._cell(scratch, p, first), acc

            self._sum(axis, scratch.shape[:-2], (count, width), update, store)
        return scratch

    def _last_pass(self, sums: Buffer, factor: Buffer, y: Image, finish: Step) -> None:
        """Sum along the last axis, over input channels and terms too."""
        line = self.passes.lines[-1]
        for first, count, width in self._columns(range(line.count)):

            def update(p: Point, acc: Expr, first: int = first) -> Expr:
                column = self._column(p, first) * line.input[1] + p["t"] * line.input[2]
                rows = (p[row] for row in self._rows)
                element = sums[(p["i"], p["z"], *rows, column, self._lane(p))]
                return fma(element, self._weight(factor, p), acc)

            def store(p: Point, acc: Expr, first: int = first) -> tuple[Load, Expr]:
                at = (start + p[row] for start, row in zip(self.start, self._rows, strict=True))
                index = (self.n, self.out, *at, self._column(p, first), self._lane(p))
                return y[index], finish(acc, index)

            self._sum(len(self.count), sums.shape[:-2], (count, width), update, store)

    def _sum(
        self,
        axis: int,
        extents: Sequence[int],
        columns: tuple[int, int],
        update: Update,
        store: Store,
    ) -> None:
        """Append the sum over the taps of an axis, the last over channels and terms too.

        ``extents``: of channels, terms and rows; ``columns``: steps and lanes of the last axis.
        """
        axes = dict(zip(("i", "z", *self._rows), extents, strict=True))
        taps, last = self.passes.lines[axis].taps, axis == len(self.count)
        box = {name: range(axes.pop(name)) for name in ("i", "z")} if last else {}
        tall, wide = self.passes.tile(taps)
        unrolled = axis == 0 and self.clear and taps * tall * wide <= UNROLLED
        cuts = [range(t, t + 1) for t in range(taps)] if unrolled else [range(taps)]
        boxes = tuple({**box, "t": cut} for cut in cuts)
        axes |= {"j": columns[0], "v": columns[1]}
        guards = _no_guards if axis or self.clear else self._guards
        tile = ((self._rows[-1], tall), ("j", wide))
        nest = Nest(self.dtype, axes, store, update, boxes, guards=guards)
        lower(self.k, nest, Schedule((), tile, ("v", columns[1])))

    def _reads(self, p: Point) -> Iterator[Affine]:
        """Positions in the image, on all axes but the last, that the first pass reads."""
        for axis, (name, line) in enumerate(zip(self._rows, self.passes.lines, strict=False)):
            start, step, tap = line.input
            at = self.start[axis] * step + start
            yield at + (p[name] * step + p["t"] * tap if axis == 0 else p[name])

    def _guards(self, p: Point) -> list[tuple[Affine, int]]:
        return list(zip(self._reads(p), self.passes.shape.image[2:-1], strict=True))

    def _element(self, x: Image, p: Point, at: tuple[Affine, ...]) -> Load:
        if self.passes.form == "depthwise":
            return x[(self.n, self.out, *at, p["v"])]
        return x[(self.n, self.group * self.passes.inner + p["i"], *at, 0)]

    def _zero_margins(self, scratch: Buffer) -> None:
        """The cells of scratch lines that lie outside of the image."""
        inside, zero = self.passes.inside, self.k.constant(0, scratch.dtype)
        margins = range(inside.start), range(inside.stop, self.passes.line)
        axes = dict(zip(("i", "z", *self._rows), scratch.shape[:-2], strict=True))
        for first, count, width in self._columns(*margins):

            def store(p: Point, _: Expr, first: int = first) -> tuple[Load, Expr]:
                return self._cell(scratch, p, first), zero

            nest = Nest(scratch.dtype, {**axes, "j": count, "v": width}, store)
            lower(self.k, nest, Schedule((), vector=("v", width)))


def _no_guards(p: Point) -> Sequence[tuple[Affine, int]]:
    return ()
