"""The one-dimensional passes of a separable convolution, fused through the cache.

A task makes a strip of output rows. The first pass reads the image along its first axis and
leaves its sums in a scratch; each further pass takes one more axis, the last writes the output.
The last axis of the scratch has a margin of zeros, so the image itself needs no halo; rows
outside of it are skipped, by tests that the rows in the middle do not have.

    s0[i, q0, h1.., hL] = sum over t0 of x[i, q0*s0 + t0*d0 - lo0, h1, ..] * f0[t0]
    s1[i, q0, q1, ..]   = sum over t1 of s0[i, q0, q1*s1 + t1*d1, ..] * f1[t1]
    y[.., qL]           = sum over i, tL of sL-1[i, .., qL*sL + tL*dL] * fL[tL]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Literal

from convc.algorithms.convolution import Convolution
from convc.algorithms.epilogue import Step
from convc.algorithms.geometry import Line
from convc.layout import Image
from convc.schedule import Nest, Point, Schedule, Segment, lower, segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr, Load

Form = Literal["depthwise", "mixing", "spatial"]

SCRATCH = 32 << 10  # bytes of a task's scratch, which the first-level cache should keep
TILE = (4, 4)  # rows and vectors of accumulators
UNROLLED = 160  # multiply-adds of a tile up to which its taps are unrolled, to share loads


@dataclass(frozen=True)
class Passes:
    """A convolution in ``terms`` products of one-dimensional kernels.

    ``form`` says what the lanes are: the channels of a depthwise convolution, the output channels
    of one that mixes, or neighbours on the last axis of plain data.
    """

    shape: Convolution
    terms: int
    lanes: int
    form: Form
    itemsize: int

    @property
    def lines(self) -> tuple[Line, ...]:
        (lines,) = self.shape.lines()
        return lines

    @property
    def groups(self) -> int:
        return self.shape.op.groups if self.form == "spatial" else 1

    @property
    def outs(self) -> int:
        """Channels of a group that are looped over, or vectors of channels."""
        if self.form == "spatial":
            return self.shape.out
        return -(-self.shape.weights[0] // self.lanes)

    @property
    def inner(self) -> int:
        return self.shape.weights[1]

    @property
    def depth(self) -> int:
        """Elements of a scratch cell."""
        return 1 if self.form == "spatial" else self.lanes

    @property
    def line(self) -> tuple[int, range]:
        """Cells of a scratch line, and those of them that lie in the image."""
        first, last = self.lines[-1].reach()
        size = self.shape.image[-1]
        start = min(max(first, 0), size)
        stop = max(start, min(last + 1, size))
        return last - first + 1, range(start - first, stop - first)

    @property
    def rows(self) -> int:
        """Output rows of a strip."""
        line = self.lines[-2]
        row = self.inner * self.terms * self.line[0] * self.depth * self.itemsize
        return max(1, min(SCRATCH // row, 2 * TILE[0], line.count))

    def factor(self, axis: int) -> tuple[int, ...]:
        """Shape of the factors of an axis: [outs, inner, terms, taps, lanes]."""
        outs = self.groups * self.outs
        return outs, self.inner, self.terms, self.shape.weights[2 + axis], self.depth

    def regions(self, axis: int) -> tuple[range, ...]:
        """The output positions whose windows overhang the image, and between them the others."""
        line, size = self.lines[axis], self.shape.image[2 + axis]
        start, step, tap = line.input
        span = tap * (line.taps - 1)
        first = min(max(-(start // step), 0), line.count)
        last = max(first, min((size - 1 - span - start) // step + 1, line.count))
        return range(first), range(first, last), range(last, line.count)


def correlate(
    k: KernelBuilder, passes: Passes, x: Image, factors: Sequence[Buffer], y: Image, finish: Step
) -> None:
    """Append ``y = finish(x correlated with the products of the factors)``."""
    leading = [f"q{axis}" for axis in range(len(passes.lines) - 2)]
    strips = segments(passes.regions(len(leading)), passes.rows)
    cuts = [segments(passes.regions(axis), 1) for axis in range(len(leading))]
    for *heads, strip in product(*cuts, strips):
        with ExitStack() as loops:
            n = loops.enter_context(k.loop("n", x.shape[0], "parallel"))
            g = loops.enter_context(k.loop("g", passes.groups, "parallel"))
            o = loops.enter_context(k.loop("o", passes.outs, "parallel"))
            starts = [
                loops.enter_context(k.loop(name, count, "parallel")) * width + first
                for name, (first, count, width) in zip([*leading, "q"], [*heads, strip], strict=True)
            ]
            counts = (*(1 for _ in heads), strip[2])
            _Strip(k, passes, n, g, o, tuple(starts), counts).run(x, factors, y, finish)


@dataclass(frozen=True)
class _Strip:
    """Some rows of one output channel, or of one vector of them."""

    k: KernelBuilder
    passes: Passes
    n: Affine
    g: Affine
    o: Affine
    start: tuple[Affine, ...]
    count: tuple[int, ...]

    def run(self, x: Image, factors: Sequence[Buffer], y: Image, finish: Step) -> None:
        source: Buffer | None = None
        for axis, factor in enumerate(factors[:-1]):
            scratch = self._scratch(x, axis)
            if axis == len(factors) - 2:
                self._zero_margins(scratch)
            self._inner_pass(axis, x, source, factor, scratch)
            source = scratch
        assert source is not None
        self._last_pass(source, factors[-1], y, finish)

    @property
    def out(self) -> Affine:
        return self.g * self.passes.outs + self.o

    def _windows(self, axis: int) -> int:
        """Input positions that the strip reads along an axis."""
        _, step, tap = self.passes.lines[axis].input
        return (self.count[axis] - 1) * step + tap * (self.passes.lines[axis].taps - 1) + 1

    def _scratch(self, x: Image, axis: int) -> Buffer:
        """What the pass over ``axis`` leaves: outputs up to it, inputs beyond."""
        passes = self.passes
        rows = [
            self.count[other] if other <= axis else self._windows(other)
            for other in range(len(passes.lines) - 1)
        ]
        shape = (passes.inner, passes.terms, *rows, passes.line[0], passes.depth)
        return self.k.local("sums", x.buffer.dtype, shape)

    def _zero_margins(self, scratch: Buffer) -> None:
        size, inside = self.passes.line
        zero = self.k.constant(0, scratch.dtype)
        margins = (range(inside.start), range(inside.stop, size))
        rows = {f"r{axis}": extent for axis, extent in enumerate(scratch.shape[:-2])}
        for first, count, width in self._columns(margins):

            def store(p: Point, _: Expr, first: int = first) -> tuple[Load, Expr]:
                return scratch[(*(p[r] for r in rows), *self._cell(p, first))], zero

            nest = Nest(scratch.dtype, {**rows, "j": count, "v": width}, store)
            lower(self.k, nest, Schedule((), vector=("v", width)))

    def _columns(self, parts: tuple[range, ...]) -> list[Segment]:
        """Cuts of a line: a start, a number of steps, the lanes."""
        if self.passes.form == "spatial":
            return segments(parts, self.passes.lanes)
        return [(part.start, len(part), self.passes.lanes) for part in parts if part]

    def _column(self, p: Point, first: int) -> Affine:
        if self.passes.form == "spatial":
            return p["j"] * self.passes.lanes + p["v"] + first
        return p["j"] + first

    def _cell(self, p: Point, first: int) -> tuple[Affine, Affine | int]:
        """Where a point of a cut is in a scratch line."""
        return self._column(p, first), self._lane(p)

    def _lane(self, p: Point) -> Affine | int:
        return 0 if self.passes.form == "spatial" else p["v"]

    def _inner_pass(
        self, axis: int, x: Image, source: Buffer | None, factor: Buffer, scratch: Buffer
    ) -> None:
        """Sum along ``axis``, from the image or from what the pass before has left."""
        rows = [f"r{other}" for other in range(len(self.passes.lines) - 1)]
        line = self.passes.lines[axis]
        first_read = self.passes.lines[-1].reach()[0]
        for first, count, width in self._columns((self.passes.line[1],)):

            def update(p: Point, acc: Expr, first: int = first) -> Expr:
                at = [p[row] for row in rows]
                weight = factor[self.out, p["i"], p["z"], p["t"], self._lane(p)]
                if source is None:
                    column = self._column(p, first) + first_read
                    return fma(self._element(x, p, (*self._reads(p), column)), weight, acc)
                at[axis] = at[axis] * line.input[1] + p["t"] * line.input[2]
                return fma(source[(p["i"], p["z"], *at, *self._cell(p, first))], weight, acc)

            def store(p: Point, acc: Expr, first: int = first) -> tuple[Load, Expr]:
                cell = self._cell(p, first)
                return scratch[(p["i"], p["z"], *(p[row] for row in rows), *cell)], acc

            axes = {"i": self.passes.inner, "z": self.passes.terms}
            axes |= dict(zip(rows, scratch.shape[2:-2], strict=True)) | {"j": count, "v": width}
            guards = self._guards if source is None else _no_guards
            self._lower(Nest(x.buffer.dtype, axes, store, update, (), guards=guards), line.taps)

    def _reads(self, p: Point) -> Iterator[Affine]:
        """Positions in the image, on all axes but the last, that the first pass reads."""
        for axis, line in enumerate(self.passes.lines[:-1]):
            start, step, tap = line.input
            at = self.start[axis] * step + start
            yield at + (p["r0"] * step + p["t"] * tap if axis == 0 else p[f"r{axis}"])

    def _guards(self, p: Point) -> list[tuple[Affine, int]]:
        return list(zip(self._reads(p), self.passes.shape.image[2:-1], strict=True))

    def _element(self, x: Image, p: Point, at: tuple[Affine, ...]) -> Load:
        if self.passes.form == "depthwise":
            return x[(self.n, self.o, *at, p["v"])]
        return x[(self.n, self.g * self.passes.inner + p["i"], *at, 0)]

    def _last_pass(self, source: Buffer, factor: Buffer, y: Image, finish: Step) -> None:
        passes, line = self.passes, self.passes.lines[-1]
        rows = [f"r{other}" for other in range(len(passes.lines) - 1)]
        for first, count, width in self._columns((range(line.count),)):

            def update(p: Point, acc: Expr, first: int = first) -> Expr:
                column = self._column(p, first) * line.input[1] + p["t"] * line.input[2]
                at = (*(p[row] for row in rows), column, self._lane(p))
                weight = factor[self.out, p["i"], p["z"], p["t"], self._lane(p)]
                return fma(source[(p["i"], p["z"], *at)], weight, acc)

            def store(p: Point, acc: Expr, first: int = first) -> tuple[Load, Expr]:
                at = [start + p[row] for start, row in zip(self.start, rows, strict=True)]
                index = (self.n, self.out, *at, self._column(p, first), self._lane(p))
                return y[index], finish(acc, index)

            axes = dict(zip(rows, self.count, strict=True)) | {"j": count, "v": width}
            sums = {"i": range(passes.inner), "z": range(passes.terms)}
            self._lower(Nest(y.buffer.dtype, axes, store, update), line.taps, sums)

    def _lower(self, nest: Nest, taps: int, sums: Mapping[str, range] | None = None) -> None:
        """The nest with its taps as the innermost reduction, unrolled where they are few."""
        row = f"r{len(self.passes.lines) - 2}"
        tile = ((row, TILE[0]), ("j", TILE[1]))
        boxes: list[Mapping[str, range]] = [{**(sums or {}), "t": range(taps)}]
        if taps * prod(TILE) <= UNROLLED and prod(map(len, (sums or {}).values())) == 1:
            boxes = [{**(sums or {}), "t": range(t, t + 1)} for t in range(taps)]
        whole = Nest(
            nest.dtype, nest.axes, nest.store, nest.update, tuple(boxes), guards=nest.guards
        )
        lower(self.k, whole, Schedule((), tile, ("v", dict(nest.axes)["v"])))


def _no_guards(p: Point) -> list[tuple[Affine, int]]:
    return []
