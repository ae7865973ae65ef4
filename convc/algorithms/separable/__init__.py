"""Convolution by kernels that are products of one-dimensional ones, an axis at a time.

A kernel of rank 1 in every unfolding is an outer product, and w**d products per output become
w * d (Goodfellow et al. 2016, section 9.8). Whether a kernel is one depends on its values, so it
must be a weight of the graph. The factors come from the singular vectors of its unfoldings (De
Lathauwer et al. 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convc.algorithms.base import AS_PLAIN, Site, Wish
from convc.algorithms.convolution import Convolution
from convc.algorithms.epilogue import Epilogue
from convc.algorithms.separable.passes import Form, Passes, correlate
from convc.cost import CLOCK, slowness, stream_bytes
from convc.layout import zero_halo
from ir.loops import KernelBuilder
from ir.ops import Conv
from ir.types import Array

if TYPE_CHECKING:
    from convc.lowering import Lowering
    from convc.program import Stored

RANK_ONE = {"f32": 1e-6, "f64": 1e-12}  # of the first singular value: what the second may be
APPROXIMATE = 1e-3  # what all beyond the terms of an approximation may be together
SAMPLE = 16  # kernels looked at before all of them are


def unfoldings(kernels: Array) -> list[Array]:
    """Of kernels [P, *taps], for each axis, the matrices [P, taps of the axis, other taps]."""
    return [
        np.moveaxis(kernels, 1 + axis, 1).reshape(len(kernels), kernels.shape[1 + axis], -1)
        for axis in range(kernels.ndim - 1)
    ]


def beyond(kernels: Array, terms: int) -> float:
    """The largest share of the first singular value that those after ``terms`` add up to."""
    worst = 0.0
    for matrices in unfoldings(kernels):
        values = np.linalg.svd(matrices, compute_uv=False)
        rest = values[:, terms:].sum(axis=1)
        worst = max(worst, float(np.max(rest / np.maximum(values[:, 0], 1e-300), initial=0.0)))
    return worst


def factors(kernels: Array, terms: int) -> list[Array]:
    """For each axis [P, terms, taps]: products that, summed over the terms, give the kernels.

    More than one term is for kernels of two axes.
    """
    if terms > 1:
        columns, scales, rows = np.linalg.svd(kernels, full_matrices=False)
        bases = [columns.swapaxes(1, 2)[:, :terms], rows[:, :terms]]
    else:
        left = [np.linalg.svd(m, full_matrices=False)[0] for m in unfoldings(kernels)]
        bases = [vectors[:, None, :, 0] for vectors in left]
        scales = kernels
        for basis in bases:
            scales = np.einsum("pt...,pt->p...", scales, basis[:, 0])
        scales = scales[:, None]
    scales = scales[:, :terms, None]
    bases = [basis * np.abs(scales) ** (1 / len(bases)) for basis in bases]
    return [bases[0] * np.sign(scales), *bases[1:]]


class Separable:
    """Passes over one axis after the other, for ``terms`` products of one-dimensional kernels.

    One term is exact but for rounding. More make an approximation, which has to be asked for.
    """

    reorders_only: ClassVar[bool] = False

    def __init__(self, terms: int = 1) -> None:
        self.terms = terms
        self.name = "separable" if terms == 1 else f"separable{terms}"

    def supports(self, site: Site) -> str | None:
        if not isinstance(site.op, Conv):
            return "only for the forward convolution"
        weights = site.constants[1] if len(site.constants) > 1 else None
        if weights is None:
            return "whether a kernel is separable depends on its values: only for frozen weights"
        reasons = {
            "fewer than two axes have more than one tap": sum(t > 1 for t in weights.shape[2:]) < 2,
            "a sum of products needs two axes": self.terms > 1 and weights.ndim != 4,
            f"{self.terms} products of lines are no less work than the kernel":
                self.terms > 1 and self.terms * sum(weights.shape[2:]) >= prod(weights.shape[2:]),
            "the tensor is empty": 0 in (*site.shape(0)[1:], *weights.shape, *site.result[1:]),
        }
        found = next((reason for reason, holds in reasons.items() if holds), None)
        return found or self._rank_reason(weights, site.dtype)

    def _rank_reason(self, weights: Array, dtype: str) -> str | None:
        """Why the kernels are no such products; most that are not show it in the first few."""
        allowed = RANK_ONE[dtype] if self.terms == 1 else APPROXIMATE
        every = weights.reshape(-1, *weights.shape[2:])
        for some in (every[:SAMPLE], every):
            if not np.isfinite(some).all():
                return "the weights are not finite"
            rest = beyond(some.astype(np.float64), self.terms)
            if rest > allowed:
                return (
                    f"not of rank {self.terms}: the singular values beyond make {rest:.0e} of the "
                    f"first, {allowed:.0e} is allowed"
                )
        return None

    def seconds(self, site: Site) -> float:
        return predicted_seconds(self._passes(site), site) if self.terms == 1 else inf

    def tolerance(self, site: Site) -> float:
        """Rounding in each pass; of an approximation, what its terms leave out."""
        rounding = 3e-5 if site.dtype == "f32" else 3e-12
        return rounding if self.terms == 1 else rounding + APPROXIMATE

    def block(self, site: Site, given: Sequence[int]) -> int:
        return 1 if self._passes(site).form == "spatial" else site.lanes

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        passes = self._passes(site)
        read = Wish((site.lanes if passes.form == "depthwise" else 1,), exact=False)
        return read, AS_PLAIN, *Epilogue(site, self.block(site, ())).wishes()

    def lower(self, site: Site, into: Lowering) -> None:
        passes = self._passes(site)
        block = self.block(site, ())
        epilogue = Epilogue(site, block)
        source, tables = into.read(0), self._tables(site, passes, into)
        extra, result = epilogue.operands(into), into.write(block)
        k = KernelBuilder(f"separable_{passes.form}")
        x = source.image(k, "x")
        read = [k.read(f"f{a}", site.dtype, passes.factor(a)) for a in range(len(tables))]
        finish = epilogue.declare(k, extra)
        y = result.image(k, "y", write=True)
        correlate(k, passes, x, read, y, finish)
        zero_halo(k, y)
        into.run(k.build(), source, *tables, *extra, result)

    def _passes(self, site: Site) -> Passes:
        shape = Convolution.of(site)
        terms = min(self.terms, *shape.weights[2:])
        form = form_of(shape, site.lanes)
        return Passes.of(shape, terms, form, site.outputs[0].dtype.itemsize, site.target)

    def _tables(self, site: Site, passes: Passes, into: Lowering) -> list[Stored]:
        """The factors of each axis, as the passes read them."""
        weights = site.constants[1]
        assert weights is not None
        kernels = weights.reshape(-1, *weights.shape[2:]).astype(np.float64)
        tables = [packed(f, passes, axis) for axis, f in enumerate(factors(kernels, passes.terms))]
        return [
            into.table(f"{site.name}.factor{axis}", table.astype(weights.dtype))
            for axis, table in enumerate(tables)
        ]


def packed(factor: Array, passes: Passes, axis: int) -> Array:
    """Factors [K * C, terms, taps] with output channels in the lanes if the form is so."""
    outs, inner, terms, taps, depth = passes.factor(axis)
    rows = factor.reshape(-1, inner, terms, taps)
    whole = np.zeros((outs * depth, inner, terms, taps))
    whole[: len(rows)] = rows
    return np.moveaxis(whole.reshape(outs, depth, inner, terms, taps), 1, -1)


def form_of(shape: Convolution, lanes: int) -> Form:
    """Channels in the lanes where they fill half of them, else neighbours on the last axis."""
    enough = shape.weights[0] >= lanes / 2
    if enough and shape.op.groups == 1:
        return "mixing"
    return "depthwise" if enough and shape.out == shape.inner == 1 else "spatial"


def predicted_seconds(passes: Passes, site: Site) -> float:
    """Cycles as measured: near one a multiply-add, one where vectors cross cache lines.

    Lanes that skip cells are gathered one by one. Each sum is stored and read again.
    """
    products = [multiply_adds(passes, axis) for axis in range(len(passes.lines))]
    unit = passes.lines[-1].input[1] == 1
    last = 0.75 if not passes.spatial else 1.0 if unit else 10.0
    cycles = 0.75 * sum(products[:-1]) + last * products[-1]
    overhead = 1 if passes.form == "mixing" else 4
    cycles += overhead * products[-1] / passes.lines[-1].taps
    batch, *image = site.shape(0)
    moved = batch * (prod(image) + prod(site.result[1:])) * passes.itemsize
    return max(batch * cycles * slowness(site.target) / CLOCK, moved / stream_bytes(moved))


def multiply_adds(passes: Passes, axis: int) -> float:
    """Of vectors, of one example, in the pass over an axis: outputs up to it, inputs beyond."""
    lines = passes.lines
    vectors = passes.groups * passes.outs * passes.inner * passes.terms * lines[axis].taps
    cells = float(lines[-1].count if axis == len(lines) - 1 else passes.line)
    for other, line in enumerate(lines[:-1]):
        _, step, tap = line.input
        read = (passes.rows - 1) * step + tap * (line.taps - 1) + 1
        cells *= line.count * (read / passes.rows if other > axis else 1)
    return vectors * cells / (passes.lanes if passes.spatial else 1)
