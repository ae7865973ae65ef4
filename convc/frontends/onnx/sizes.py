"""Symbolic sizes as numbers, for models that compute with them when they run.

A graph knows the sizes of its values only as shapes: a number is made of a size by adding up as
many ones, exactly, in float64.
"""

from __future__ import annotations

import ir
from ir.dims import Dim, Sym
from ir.types import Array


def counted(b: ir.Builder, sizes: Array) -> ir.Value:
    """An array of sizes as i64 values of its shape."""
    rows = [b.reshape(number(b, size), (1,)) for size in sizes.reshape(-1)]
    return b.cast(b.reshape(b.concat(rows, 0), sizes.shape), "i64")


def number(b: ir.Builder, size: Dim) -> ir.Value:
    """A size as a value f64[]; what is subtracted in it may not be more than the rest."""
    if not isinstance(size, Sym):
        return _stored(b, size)
    total: ir.Value | None = None
    for atoms, factor in size.terms:
        term = _stored(b, factor)
        for atom in atoms:
            ones = b.expand(_stored(b, 1), (Sym((((atom,), 1),)),))
            term = b.mul(term, b.sum(ones, (0,)))
        total = term if total is None else b.add(total, term)
    assert total is not None
    return total


def numbered(b: ir.Builder, start: ir.Value, step: ir.Value, count: Dim) -> ir.Value:
    """The values start + i·step f64[count] of i = 0, 1, ..., of two f64[]."""
    steps = b.cumsum(b.expand(_stored(b, 1), (count,)), 0)
    return b.add(b.mul(steps, step), b.sub(start, step))


def _stored(b: ir.Builder, value: float) -> ir.Value:
    return b.constant(float(value), "f64")
