"""What all kernels of the algorithm share: the table of twiddles, a plane, places in images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

from convc.algorithms.fft.passes import Passes, Twiddles
from convc.algorithms.fft.plane import Plane
from convc.algorithms.fft.tiling import Tiling
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.nodes import LoopKind, Scalar


@dataclass(frozen=True)
class Frame:
    """A kernel under construction for one tiling."""

    k: KernelBuilder
    tiling: Tiling
    dtype: Scalar
    table: Buffer

    @staticmethod
    def begin(name: str, tiling: Tiling, dtype: Scalar) -> Frame:
        """A new kernel whose first parameter is the table of twiddles."""
        k = KernelBuilder(name)
        size = Twiddles(*tiling.radices).array.size
        return Frame(k, tiling, dtype, k.read("twiddles", dtype, (size,)))

    @cached_property
    def twiddles(self) -> Twiddles:
        return Twiddles(*self.tiling.radices)

    def plane(self, lanes: int, tiles: int = 1) -> Plane:
        """The transforms of one task and the buffers they need for so many tiles."""
        height, width = (axis.points for axis in self.tiling.axes)
        line = self.k.local("line", self.dtype, (width, 2, lanes))
        column = self.k.local("column", self.dtype, (height, 2, lanes))
        shape = (tiles * -(-height // 2), width + 3, 2, lanes)
        spectrum = self.k.local("spectrum", self.dtype, shape)
        columns, rows = (
            Passes(self.k, radices, self.twiddles, self.table, work)
            for radices, work in zip(self.tiling.radices, (column, line), strict=True)
        )
        return Plane(self.k, rows, columns, spectrum)

    def tile(self, loops: ExitStack, kind: LoopKind) -> Tile:
        """Enter loops over the tiles of an image."""
        at = [
            loops.enter_context(self.k.loop(f"t{axis}", count, kind))
            for axis, count in enumerate(self.tiling.grid)
        ]
        return Tile(self, at[0], at[1])


@dataclass(frozen=True)
class Tile:
    """One tile by its numbers along both axes."""

    frame: Frame
    down: Affine
    across: Affine

    def source(self, row: Affine, column: Affine) -> tuple[Affine, ...]:
        """Where a cell of the tile lies in the image that the convolution walks."""
        starts = (axis.start for axis in self.frame.tiling.axes)
        places = zip(self._place(row, column), starts, strict=True)
        return tuple(place + start for place, start in places)[-self._rank :]

    def result(self, row: Affine, column: Affine) -> tuple[Affine, ...]:
        """Where an output of the tile lies."""
        return self._place(row, column)[-self._rank :]

    @property
    def _rank(self) -> int:
        return len(self.frame.tiling.shape.op.stride)

    def _place(self, row: Affine, column: Affine) -> tuple[Affine, Affine]:
        """On both axes; the rows of a line are its pieces."""
        rows, columns = self.frame.tiling.axes
        piece = self.across * columns.together
        if columns.together > 1:
            piece = piece + row
        return self.down * rows.outputs + row, piece * columns.outputs + column

    @contextmanager
    def guarded(self, row: Affine, column: Affine) -> Iterator[None]:
        """Nothing for cells beyond the tile's outputs or the result."""
        k, (rows, columns) = self.frame.k, self.frame.tiling.axes
        with ExitStack() as guards:
            guards.enter_context(k.guard(column, columns.outputs))
            for place, axis in zip(self._place(row, column), (rows, columns), strict=True):
                guards.enter_context(k.guard(place, axis.count))
            yield
