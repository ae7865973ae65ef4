"""Two-dimensional transforms of real tiles, lane by lane: rows, then columns.

Two real rows make one complex line, x = a + i b; the column of frequency f takes them apart again
as it loads them, A[f] = (X[f] + conj X[-f]) / 2 and B[f] = (X[f] - conj X[-f]) / 2i. Only the
columns f <= length / 2 are transformed, the others being their conjugates, and on the way back
two rows share a line again. All the while the spectrum of a tile lies in one buffer

    [pairs of rows, row length + 3, re and im, lanes]

whose slots hold a line X[0], X[1], ..., X[length] = X[0] before the columns are done, and after
column f the even row's value in slot f and the odd row's in slot length + 1 - f, which earlier
columns have left free. The last slot only keeps lines out of each other's cache sets.

The factor 1/2 is left out: a forward transform gives twice the spectrum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from convc.algorithms.fft.butterfly import Complex, Point
from convc.algorithms.fft.passes import Change, Passes, Sink, Source
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.nodes import Expr, Index

# What a row holds: row, position, the values the position takes, lane; None where it is zero.
Cells = Callable[[Affine, Affine, range, Affine], Expr | None]
Put = Callable[[Affine, Affine, Expr, Affine], None]  # row, position, value, lane


@dataclass(frozen=True)
class Plane:
    """The transforms along both axes and the buffer between them, which may hold several tiles.

    The pairs of rows of this tile begin at ``first``.
    """

    k: KernelBuilder
    rows: Passes
    columns: Passes
    spectrum: Buffer
    first: Affine = field(default_factory=Affine)

    @property
    def height(self) -> int:
        return self.columns.work.shape[0]

    @property
    def width(self) -> int:
        return self.rows.work.shape[0]

    @property
    def pairs(self) -> int:
        return -(-self.height // 2)

    @property
    def lanes(self) -> int:
        return self.spectrum.shape[-1]

    # -- rows ------------------------------------------------------------------------------

    def transform_rows(self, inside: range, cells: Cells, width: int = 0) -> None:
        """Transform the rows ``inside``; all others are zero, and all positions from ``width``."""
        first, stop = inside.start // 2, -(-inside.stop // 2)
        for zeros in (range(first), range(stop, self.pairs)):
            self._zero(zeros)
        known = self._limited(cells, width or self.width)
        cuts = self._cuts_at(width) if width else ()
        self._row_pairs(range(first, stop), inside.stop,
                        lambda pair, odd: self._row(pair, odd, known, cuts))  # fmt: skip

    def restore_rows(self, rows: int, put: Put) -> None:
        """Transform back the first rows, which the columns have left."""
        self._row_pairs(range(-(-rows // 2)), rows, lambda p, odd: self._row_back(p, odd, put))

    def _row_pairs(self, pairs: range, stop: int, body: Callable[[Affine, bool], None]) -> None:
        """``body(pair, whether it has a second row)``; a last row may stand alone."""
        single = range(pairs.stop - 1, pairs.stop) if stop % 2 and len(pairs) else range(0)
        whole = range(pairs.start, pairs.stop - len(single))
        for part in (whole, single):
            if part:
                with self.k.loop("pair", part) as pair:
                    body(pair, part == whole)

    def _cuts_at(self, width: int) -> tuple[range, ...]:
        """Ranges of butterflies that each meet a point before ``width`` always or never."""
        stride = self.width // self.rows.radices[0]
        cuts = range(width % stride), range(width % stride, stride)
        return tuple(cut for cut in cuts if cut)

    @staticmethod
    def _limited(cells: Cells, width: int) -> Cells:
        def inside(row: Affine, position: Affine, span: range, v: Affine) -> Expr | None:
            return cells(row, position, span, v) if span.start < width else None

        return inside

    def _zero(self, pairs: range) -> None:
        k = self.k
        zero = k.constant(0, self.spectrum.dtype)
        with (
            k.loop("pair", pairs) as pair,
            k.loop("f", self.width + 1) as f,
            k.loop("v", self.lanes, "vector") as v,
        ):
            self._put(pair, f, v, (zero, zero))

    def _row(self, pair: Affine, odd: bool, cells: Cells, cuts: tuple[range, ...]) -> None:
        k, zero = self.k, self.k.constant(0, self.spectrum.dtype)

        def load(position: Affine, span: range, v: Affine) -> Point:
            even = cells(pair * 2, position, span, v)
            other = cells(pair * 2 + 1, position, span, v) if odd else zero
            return None if even is None or other is None else (even, other)

        def store(f: Affine, v: Affine, value: Complex) -> None:
            self._put(pair, f, v, value)

        self.rows.natural(load, store, cuts)
        with k.loop("v", self.lanes, "vector") as v:
            self._put(pair, self.width, v, self._at(pair, 0, v))

    def _row_back(self, pair: Affine, odd: bool, put: Put) -> None:
        """Real and imaginary parts stand exchanged: see ``Passes``."""
        zero = self.k.constant(0, self.spectrum.dtype)

        def load(position: Affine, span: range, v: Affine) -> Point:
            upper = 2 * span.start >= self.width
            f = self.width - position if upper else position
            re, im = self._at(pair, f, v)
            second = self._at(pair, self.width + 1 - f, v) if odd else (zero, zero)
            if upper:
                return (second[0] - im, re + second[1])
            return (im + second[0], re - second[1])

        def store(position: Affine, v: Affine, value: Complex) -> None:
            put(pair * 2, position, value[1], v)
            if odd:
                put(pair * 2 + 1, position, value[0], v)

        self.rows.natural(load, store)

    def _at(self, pair: Affine, slot: Index, v: Affine) -> Complex:
        pair = pair + self.first
        return self.spectrum[pair, slot, 0, v], self.spectrum[pair, slot, 1, v]

    def _put(self, pair: Affine, slot: Index, v: Affine, value: Complex) -> None:
        for part in (0, 1):
            self.k.store(self.spectrum[pair + self.first, slot, part, v], value[part])

    # -- columns ---------------------------------------------------------------------------

    @contextmanager
    def each_column(self) -> Iterator[Affine]:
        with self.k.loop("f", self.width // 2 + 1) as f:
            yield f

    def analyse(self, f: Affine, store: Sink) -> None:
        """Transform a column; ``store`` gets its frequencies in the order of the passes."""
        self.columns.scattered(self._load(f), store, self._cuts())

    def synthesise(self, f: Affine, rows: int, load: Source) -> None:
        """Transform a column back and keep its first rows; real and imaginary exchanged."""
        self.columns.gathered(load, self._keep(f, rows), self._cuts())

    def filter(self, f: Affine, rows: int, change: Change) -> None:
        """A column there and back; ``change`` multiplies, and exchanges real and imaginary."""
        self.columns.through(self._load(f), change, self._keep(f, rows), self._cuts())

    def _cuts(self) -> tuple[range, ...]:
        """Even rows and odd rows apart: they are taken from their line in different ways."""
        stride = self.height // self.columns.radices[0]
        return tuple(cut for cut in (range(0, stride, 2), range(1, stride, 2)) if cut)

    def _load(self, f: Affine) -> Source:
        def load(row: Affine, _: range, v: Affine) -> Point:
            pair, odd = _halves(row)
            (re, im), (re2, im2) = self._at(pair, f, v), self._at(pair, self.width - f, v)
            return (im + im2, re2 - re) if odd else (re + re2, im - im2)

        return load

    def _keep(self, f: Affine, rows: int) -> Sink:
        def store(row: Affine, v: Affine, value: Complex) -> None:
            pair, odd = _halves(row)
            slot = self.width + 1 - f if odd else f
            with self.k.guard(row, rows):
                self._put(pair, slot, v, (value[1], value[0]))

        return store


def _halves(row: Affine) -> tuple[Affine, int]:
    """A row number as pair and place in it; which place must be the same at every step."""
    assert all(factor % 2 == 0 for _, factor in row.terms), row
    terms = tuple((name, factor // 2) for name, factor in row.terms)
    return Affine(terms, row.constant // 2), row.constant % 2
