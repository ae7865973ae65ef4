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
from ir.loops.nodes import Scalar

# Position on the line, the positions it takes, the lane. Zero is None.
Source = Callable[[Affine, range, Affine], Point]
Sink = Callable[[Affine, Affine, Complex], None]
# What to do in registers between a transform and the next, at these positions of the line.
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
class Passes:
    """A transform whose length is the product of ``radices``, over ``work`` [length, 2, lanes]."""

    k: KernelBuilder
    radices: tuple[int, ...]
    twiddles: Twiddles
    table: Buffer
    work: Buffer

    @property
    def dtype(self) -> Scalar:
        return self.work.dtype

    @property
    def last(self) -> int:
        return len(self.radices) - 1

    def natural(self, load: Source, store: Sink, cuts: Sequence[range] = ()) -> None:
        """From the natural order to the natural order."""
        self._down(load, self.last, cuts)
        source = load if self.last == 0 else self._load
        self._stage(self.last, source, store, natural=True)

    def scattered(self, load: Source, store: Sink, cuts: Sequence[range] = ()) -> None:
        """From the natural order to that of the passes; ``cuts``: see ``rows_apart``."""
        self._down(load, self.last, cuts)
        self._stage(self.last, load if self.last == 0 else self._load, store)

    def gathered(self, load: Source, store: Sink, cuts: Sequence[range] = ()) -> None:
        """From the order of the passes to the natural order."""
        self._stage(self.last, load, store if self.last == 0 else self._store)
        self._up(store, cuts)

    def through(
        self, load: Source, change: Change, store: Sink, cuts: Sequence[range] = ()
    ) -> None:
        """There and back: ``change`` gets each few frequencies of the last pass in registers."""
        self._down(load, self.last, cuts)
        ends = (load, store) if self.last == 0 else (self._load, self._store)
        self._stage(self.last, *ends, change=change)
        self._up(store, cuts)

    def _down(self, load: Source, levels: int, cuts: Sequence[range] = ()) -> None:
        for level in range(levels):
            first = (load, cuts) if level == 0 else (self._load, ())
            self._stage(level, first[0], self._store, cuts=first[1], after=True)

    def _up(self, store: Sink, cuts: Sequence[range]) -> None:
        for level in reversed(range(self.last)):
            end = (store, cuts) if level == 0 else (self._store, ())
            self._stage(level, self._load, end[0], cuts=end[1], before=True)

    def _load(self, position: Affine, _: range, v: Affine) -> Point:
        return self.work[position, 0, v], self.work[position, 1, v]

    def _store(self, position: Affine, v: Affine, value: Complex) -> None:
        for part in (0, 1):
            self.k.store(self.work[position, part, v], value[part])

    def _stage(
        self,
        level: int,
        load: Source,
        store: Sink,
        *,
        cuts: Sequence[range] = (),
        before: bool = False,
        after: bool = False,
        natural: bool = False,
        change: Change | None = None,
    ) -> None:
        """All butterflies of a level: loops over the parts of the line, and inside each part.

        Twiddles come before or after the butterfly. ``natural`` stores in the natural order.
        """
        k, radix, lanes = self.k, self.radices[level], self.work.shape[-1]
        stride = prod(self.radices[level + 1 :])
        with self._part(level, natural) as (offset, order):
            for cut in cuts or (range(stride),):
                with k.loop("j", len(cut)) as trip, k.loop("v", lanes, "vector") as v:
                    j = trip * cut.step + cut.start
                    m = Arithmetic(k, self.dtype, lanes, v)
                    positions = [j + offset + stride * i for i in range(radix)]
                    spans = [range(cut.start + stride * i, cut.stop + stride * i, cut.step)
                             for i in range(radix)]  # fmt: skip
                    x = [_kept(m, load(p, span, v)) for p, span in zip(positions, spans)]
                    y = transform(m, self._twiddled(m, x, level, j) if before else x)
                    if change:
                        y = transform(m, change(m, positions, y))
                    y = self._twiddled(m, y, level, j) if after else y
                    weight = prod(self.radices[:level])
                    ends = [order + weight * i for i in range(radix)] if natural else positions
                    zero = m.number(0)
                    for position, value in zip(ends, y, strict=True):
                        store(position, v, value or (zero, zero))

    @contextmanager
    def _part(self, level: int, natural: bool) -> Iterator[tuple[Affine, Affine]]:
        """Loops over the parts of the line at a level: where each begins, its place in order."""
        parts, length = self.radices[:level], prod(self.radices[level:])
        with ExitStack() as loops:
            if not natural:
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


def _kept(m: Arithmetic, point: Point) -> Point:
    return None if point is None else m.both(*point)
