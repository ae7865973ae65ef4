"""Pooling on blocked images: the lanes of a vector are channels, each pooled by itself.

Padding cells are absent, so windows are clipped. Output positions are cut into a border, where
each cell is tested, and an interior, where the tests are known to hold and disappear.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

import ir
from convc.algorithms.base import Site, Wish
from convc.layout import Image, clear, zero_halo
from convc.pooling import SWEEP
from convc.schedule import Extent, Nest, Point, Schedule, lower, segments
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import call, maximum, select
from ir.loops.nodes import Expr, Load, LoopKind, Position, flat_index
from ir.ops import AveragePool, AveragePoolGrad, MaxPool, MaxPoolGrad, MaxPoolIndices, MaxPoolPick
from ir.ops.pool import Averaging, PoolAttributes

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored

UNROLLED = 16  # windows up to this many cells are unrolled


class _Windows:
    """Common to the pooling algorithms: operands and results in blocks of channels."""

    reorders_only: ClassVar[bool] = True
    ops: ClassVar[tuple[type[ir.Op], ...]]

    def supports(self, site: Site) -> str | None:
        names = ", ".join(op.name for op in self.ops)
        return None if isinstance(site.op, self.ops) else f"only for {names}"

    def seconds(self, site: Site) -> float:
        cost = site.op.cost(*site.inputs)
        return max(cost.flops / 100e9, cost.bytes / 60e9)

    def tolerance(self, site: Site) -> float:
        return 1e-5 if site.dtype == "f32" else 1e-12

    def block(self, site: Site, given: Sequence[int]) -> int:
        return site.lanes

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        return (Wish((site.lanes,), exact=False),) * len(site.inputs)


class Sweep(_Windows):
    """Each output reduces its window: forward max and average pooling."""

    name: ClassVar[str] = SWEEP
    ops = (MaxPool, AveragePool)

    def lower(self, site: Site, into: Lowering) -> None:
        op = site.op
        assert isinstance(op, PoolAttributes)
        source, result = into.read(0), into.write(site.lanes)
        k = KernelBuilder(op.name)
        x = source.image(k, "x")
        average = isinstance(op, Averaging)
        extra = cell_counts(site, op, source.shape[2:], into) if isinstance(op, Averaging) else []
        counts = [k.read("cells", site.dtype, site.result[2:]) for _ in extra]
        y = result.image(k, "y", write=True)
        rank = len(x.shape) - 2

        def update(p: Point, acc: Expr) -> Expr:
            at = (cell(op, p, axis) for axis in range(rank))
            value = x[(p["n"], p["c"], *at, p["v"])]
            return acc + value if average else maximum(acc, value)

        def store(p: Point, acc: Expr) -> tuple[Load, Expr]:
            at = tuple(p[f"q{axis}"] for axis in range(rank))
            target = y[(p["n"], p["c"], *at, p["v"])]
            return target, acc / counts[0][at] if counts else acc

        axes: dict[str, Extent] = {"n": x.shape[0], "c": x.blocks}
        axes |= {f"q{a}": border_cuts(op, a, n, x.shape[a + 2])
                 for a, n in enumerate(site.result[2:])}  # fmt: skip
        nest = Nest(
            site.dtype, axes | {"v": site.lanes}, store, update,
            ({f"m{axis}": range(extent) for axis, extent in enumerate(op.window)},),
            0.0 if average else -np.inf,
            lambda p: [(cell(op, p, axis), x.shape[axis + 2]) for axis in range(rank)],
        )  # fmt: skip
        zero_halo(k, y)
        schedule = Schedule(("n", "c"), ((f"q{rank - 1}", 4),), ("v", site.lanes))
        lower(k, nest, schedule)
        into.run(k.build(), source, *extra, result)


class Scatter(_Windows):
    """Each window adds to its cells, in order: the gradients, a plane of channels a task."""

    name: ClassVar[str] = "scatter"
    ops = (MaxPoolGrad, AveragePoolGrad)

    def lower(self, site: Site, into: Lowering) -> None:
        op = site.op
        assert isinstance(op, PoolAttributes)
        operands = [into.read(i) for i in range(len(site.inputs))]
        result = into.write(site.lanes)
        k = KernelBuilder(op.name)
        images = [stored.image(k, "operand") for stored in operands]
        g, average = images[-1], isinstance(op, Averaging)
        extra = cell_counts(site, op, site.result[2:], into) if isinstance(op, Averaging) else []
        counts = [k.read("cells", site.dtype, g.shape[2:]) for _ in extra]
        dx = result.image(k, "dx", write=True)
        with k.loop("n", dx.shape[0], "parallel") as n, k.loop("c", dx.blocks, "parallel") as c:
            clear(k, dx, (n, c))
            for at in _outputs(k, g.shape[2:]):
                which = None if average else _first_maximum(k, op, images[0], (n, c), at)[0]
                share = counts[0][at] if counts else None
                for cells, number in _cells(k, op, at, dx.shape[2:]):
                    with k.loop("v", site.lanes, "vector") as v:
                        value: Expr = g[(n, c, *at, v)]
                        if which:
                            hit = call("eq", which[v], number)
                            value = select(hit, value, k.constant(0, site.dtype))
                        elif share:
                            value = value / share
                        target = dx[(n, c, *cells, v)]
                        k.store(target, target + value)
        into.run(k.build(), *operands, *extra, result)


class Pick(_Windows):
    """Each output takes one cell of a second operand: where the first one's maximum is."""

    name: ClassVar[str] = "pick"
    ops = (MaxPoolPick,)

    def lower(self, site: Site, into: Lowering) -> None:
        op = site.op
        assert isinstance(op, MaxPoolPick)
        operands, result = [into.read(0), into.read(1)], into.write(site.lanes)
        k = KernelBuilder(op.name)
        x, d = (stored.image(k, name) for stored, name in zip(operands, "xd", strict=True))
        y = result.image(k, "y", write=True)
        zero_halo(k, y)
        with k.loop("n", x.shape[0], "parallel") as n, k.loop("c", x.blocks, "parallel") as c:
            for at in _outputs(k, y.shape[2:]):
                _, picked = _first_maximum(k, op, x, (n, c), at, d)
                with k.loop("v", site.lanes, "vector") as v:
                    k.store(y[(n, c, *at, v)], picked[v])
        into.run(k.build(), *operands, result)


class Locate(_Windows):
    """Each output is where in its plane the window's maximum is, stored unblocked."""

    name: ClassVar[str] = "locate"
    ops = (MaxPoolIndices,)

    def block(self, site: Site, given: Sequence[int]) -> int:
        return 1

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        return (Wish((site.target.lanes(site.inputs[0].dtype.value),), exact=False),)

    def lower(self, site: Site, into: Lowering) -> None:
        op = site.op
        assert isinstance(op, MaxPoolIndices)
        source, result = into.read(0), into.write()
        k = KernelBuilder(op.name)
        x, y = source.image(k, "x"), k.write("y", "i64", site.result)
        for first, blocks, lanes in segments(x.shape[1], x.layout.block):
            with k.loop("n", x.shape[0], "parallel") as n, k.loop("c", blocks, "parallel") as c:
                block = c + first // x.layout.block
                for at in _outputs(k, site.result[2:]):
                    which, _ = _first_maximum(k, op, x, (n, block), at, places=True)
                    with k.loop("v", lanes, "vector") as v:
                        k.store(y[(n, block * x.layout.block + v, *at)], which[v])
        into.run(k.build(), source, result)


def cell(op: PoolAttributes, point: Point, axis: int) -> Affine:
    """The input position of a window's cell on one axis."""
    start = point[f"q{axis}"] * op.stride[axis] - op.pads[axis][0]
    return start + point[f"m{axis}"] * op.dilation[axis]


def border_cuts(op: PoolAttributes, axis: int, count: int, extent: int) -> tuple[range, ...]:
    """Output positions before, in and after those whose windows lie inside the input."""
    stride, reach, low = op.stride[axis], op.extents[axis], op.pads[axis][0]
    first = min(count, -(-low // stride))
    last = (extent - reach + low) // stride + 1
    last = max(first, min(count, last))
    return range(first), range(first, last), range(last, count)


def cell_counts(site: Site, op: Averaging, extents: Sequence[int], into: Lowering) -> list[Stored]:
    """What the sum over every window is divided by, [*out]; nothing where that is one."""
    if op.divisor == "one":
        return []
    out = (site.outputs if isinstance(op, AveragePool) else site.inputs)[0].static_shape[2:]
    counts = np.ones((), site.outputs[0].dtype.numpy)
    for axis, (n, extent) in enumerate(zip(out, extents, strict=True)):
        low, high = op.pads[axis] if op.divisor == "padded" else (0, 0)
        starts = np.arange(n)[:, None] * op.stride[axis] - op.pads[axis][0]
        cells = starts + np.arange(op.window[axis]) * op.dilation[axis]
        counted = np.sum((cells >= -low) & (cells < extent + high), axis=1)
        counts = counts[..., None] * counted.astype(counts.dtype)
    return [into.table("cells", counts)]


def _outputs(k: KernelBuilder, out: Sequence[int]) -> Iterator[tuple[Affine, ...]]:
    """Loops over all windows in row-major order."""
    with ExitStack() as loops:
        yield tuple(loops.enter_context(k.loop(f"q{a}", n)) for a, n in enumerate(out))


def _cells(
    k: KernelBuilder,
    op: PoolAttributes,
    at: tuple[Affine, ...],
    extents: Sequence[int],
    places: bool = False,
) -> Iterator[tuple[tuple[Affine, ...], Expr]]:
    """Loops over the real cells of the window at an output position, with their numbers.

    These count the cells of the window, or say which ones of the plane they are (``places``).
    """
    kind: LoopKind = "unroll" if prod(op.window) <= UNROLLED else "for"
    with ExitStack() as loops:
        number = Affine()
        cells = []
        for axis, window in enumerate(op.window):
            m = loops.enter_context(k.loop(f"m{axis}", window, kind))
            number = number * window + m
            cells.append(cell(op, {f"q{axis}": at[axis], f"m{axis}": m}, axis))
        if places:
            number = flat_index(tuple(cells), tuple(extents))
        for position, extent in zip(cells, extents, strict=True):
            loops.enter_context(k.guard(position, extent))
        yield tuple(cells), Position(number)


def _first_maximum(
    k: KernelBuilder,
    op: PoolAttributes,
    x: Image,
    plane: tuple[Affine, Affine],
    at: tuple[Affine, ...],
    values: Image | None = None,
    places: bool = False,
) -> tuple[Buffer, Buffer]:
    """Per lane, the number of the window's first maximum (NaN counts as largest); see ``_cells``.

    Also gives the cell of ``values`` there, where an image is given.
    """
    dtype, lanes = x.buffer.dtype, x.layout.block
    best, taken = k.local("best", dtype, (lanes,)), k.local("taken", dtype, (lanes,))
    which, none = k.local("which", "i64", (lanes,)), k.constant(-1, "i64")
    with k.loop("v", lanes, "vector") as v:
        k.store(which[v], none)
        k.store(best[v], k.constant(-np.inf, dtype))
        k.store(taken[v], k.constant(0, dtype))
    for cells, number in _cells(k, op, at, x.shape[2:], places):
        with k.loop("v", lanes, "vector") as v:
            value = x[(*plane, *cells, v)]
            fresh = call("not", call("isnan", best[v]))
            larger = call("or", call("gt", value, best[v]), call("eq", which[v], none))
            better = call("or", larger, call("and", call("isnan", value), fresh))
            if values:  # first, while `better` still compares with the cells before
                k.store(taken[v], select(better, values[(*plane, *cells, v)], taken[v]))
            k.store(which[v], select(better, number, which[v]))
            k.store(best[v], select(better, value, best[v]))
    return which, taken
