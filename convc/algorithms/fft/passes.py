"""Fourier transforms of a line of vectors, pass by pass over a small buffer.

Each pass runs over the line in butterflies of a few points (Cooley and Tukey 1965; decimation in
frequency: butterfly, twiddle, and on to each part). The lanes of the vectors are independent
lines. Left where they arise, the frequencies stand in digit-reversed order, which is as good as
any for products; the inverse runs the same butterflies the other way round, from that order back
to the natural one. Both directions compute the forward transform: the inverse is the forward one
of numbers with real and imaginary parts exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from convc.algorithms.fft.butterfly import Arithmetic, Complex, Line, Point, transform
from ir.loops import Affine, Buffer, KernelBuilder

# What to load: position on the line, the values it takes in the loop, lane. Zero is None.
Source = Callable[[Affine, range, Affine], Point]
Sink = Callable[[Affine, Affine, Complex], None]
# What to do in registers between one transform and the next, at these positions.
Change = Callable[[Arithmetic, Sequence[Affine], Line], Line]


class Twiddles:
    """The factors between the passes of some transforms, in one table."""

    def __init__(self, *plans: Sequence[int]) -> None:
        self.offsets: dict[tuple[int, int], int] = {}
        numbers: list[float] = []
        for radices in plans:
            for level, radix in enumerate(radices[:-1]):
                length = prod(radices[level:])
                if (length, radix) not in self.offsets:
                    self.offsets[length, radix] = len(numbers)
                    numbers += _factors(length, radix)
        self.array: npt.NDArray[Any] = np.array(numbers or [0.0])


def _factors(length: int, radix: int) -> list[float]:
    """exp(-2 pi i j k / length), j < length / radix, 0 < k < radix, as pairs."""
    j, k = np.ogrid[: length // radix, 1:radix]
    factors = np.exp(-2j * np.pi * (j * k % length) / length).reshape(-1)
    result: list[float] = factors.view(np.float64).tolist()
    return result


@dataclass(frozen=True)
class _Stage:
    """One pass: what it loads and stores, when it twiddles.

    ``cuts`` are ranges of butterflies for loops of their own, where ``load`` or ``store`` must
    know more of a position than that it lies on the line. ``natural``: stores in the natural order.
    """

    level: int
    load: Source
    store: Sink
    cuts: Sequence[range] = ()
    before: bool = False
    after: bool = False
    natural: bool = False
    change: Change | None = None


@dataclass(frozen=True)
class Passes:
    """A transform whose length is the product of ``radices``, over ``work`` [length, 2, lanes]."""

    k: KernelBuilder
    radices: tuple[int, ...]
    twiddles: Twiddles
    table: Buffer
    work: Buffer

    @property
    def last(self) -> int:
        return len(self.radices) - 1

    def natural(self, load: Source, store: Sink, cuts: Sequence[range] = ()) -> None:
        """From the natural order to the natural order; ``cuts``: see ``_Stage``."""
        self._down(load, cuts)
        self._run(_Stage(self.last, self._source(load), store, natural=True))

    def scattered(self, load: Source, store: Sink, cuts: Sequence[range] = ()) -> None:
        """From the natural order to that of the passes."""
        self._down(load, cuts)
        self._run(_Stage(self.last, self._source(load), store))

    def gathered(self, load: Source, store: Sink, cuts: Sequence[range] = ()) -> None:
        """From the order of the passes to the natural order."""
        self._run(_Stage(self.last, load, self._sink(store)))
        self._up(store, cuts)

    def through(
        self, load: Source, change: Change, store: Sink, cuts: Sequence[range] = ()
    ) -> None:
        """There and back: ``change`` gets each few frequencies of the last pass in registers."""
        self._down(load, cuts)
        self._run(_Stage(self.last, self._source(load), self._sink(store), change=change))
        self._up(store, cuts)

    def _down(self, load: Source, cuts: Sequence[range]) -> None:
        """All passes but the last, each twiddling what it stores."""
        for level in range(self.last):
            first = (load, cuts) if level == 0 else (self._load, ())
            self._run(_Stage(level, first[0], self._store, first[1], after=True))

    def _up(self, store: Sink, cuts: Sequence[range]) -> None:
        """The same passes backwards, each twiddling what it loads."""
        for level in reversed(range(self.last)):
            end = (store, cuts) if level == 0 else (self._store, ())
            self._run(_Stage(level, self._load, end[0], end[1], before=True))

    def _source(self, load: Source) -> Source:
        return self._load if self.last else load

    def _sink(self, store: Sink) -> Sink:
        return self._store if self.last else store

    def _load(self, position: Affine, _: range, v: Affine) -> Point:
        return self.work[position, 0, v], self.work[position, 1, v]

    def _store(self, position: Affine, v: Affine, value: Complex) -> None:
        for part in (0, 1):
            self.k.store(self.work[position, part, v], value[part])

    def _run(self, stage: _Stage) -> None:
        """All butterflies of a level: loops over the parts of the line, and inside each part."""
        k, stride = self.k, prod(self.radices[stage.level + 1 :])
        with self._part(stage) as (offset, order):
            for cut in stage.cuts or (range(stride),):
                with (
                    k.loop("j", len(cut)) as trip,
                    k.loop("v", self.work.shape[-1], "vector") as v,
                ):
                    j = trip * cut.step + cut.start
                    spots = [(j + offset + stride * i, _moved(cut, stride * i))
                             for i in range(self.radices[stage.level])]  # fmt: skip
                    self._butterfly(stage, j, order, spots, v)

    def _butterfly(
        self,
        stage: _Stage,
        j: Affine,
        order: Affine,
        spots: Sequence[tuple[Affine, range]],
        v: Affine,
    ) -> None:
        m = Arithmetic(self.k, self.work.dtype, self.work.shape[-1], v)
        positions = [position for position, _ in spots]
        x: Line = [_kept(m, stage.load(position, span, v)) for position, span in spots]
        x = transform(m, self._twiddled(m, x, stage.level, j) if stage.before else x)
        if stage.change:
            x = transform(m, stage.change(m, positions, x))
        x = self._twiddled(m, x, stage.level, j) if stage.after else x
        weight = prod(self.radices[: stage.level])
        ends = [order + weight * i for i in range(len(x))] if stage.natural else positions
        zero = m.number(0)
        for position, value in zip(ends, x, strict=True):
            stage.store(position, v, value or (zero, zero))

    @contextmanager
    def _part(self, stage: _Stage) -> Iterator[tuple[Affine, Affine]]:
        """Loops over the parts of the line at a level: where each begins, its place in order."""
        parts, length = self.radices[: stage.level], prod(self.radices[stage.level :])
        with ExitStack() as loops:
            if not stage.natural:
                part = loops.enter_context(self.k.loop("part", prod(parts)))
                yield part * length, Affine()
                return
            offset, order = Affine(), Affine()
            for number, radix in enumerate(parts):
                digit = loops.enter_context(self.k.loop("part", radix))
                offset = offset + digit * prod(self.radices[number + 1 :])
                order = order + digit * prod(parts[:number])
            yield offset, order

    def _twiddled(self, m: Arithmetic, x: Line, level: int, j: Affine) -> list[Point]:
        radix = self.radices[level]
        start = self.twiddles.offsets[prod(self.radices[level:]), radix]
        result = [x[0]]
        for i in range(1, radix):
            place = j * (2 * radix - 2) + (start + 2 * i - 2)
            result.append(m.multiply(x[i], (self.table[place], self.table[place + 1])))
        return result


def _moved(cut: range, by: int) -> range:
    return range(cut.start + by, cut.stop + by, cut.step)


def _kept(m: Arithmetic, point: Point) -> Point:
    return None if point is None else m.both(*point)
