"""Small matrices applied to small arrays of vectors, as straight-line code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import product
from math import prod

from convc.algorithms.winograd.toom_cook import Matrix
from ir.loops import Affine, Buffer, KernelBuilder
from ir.loops.builder import fma
from ir.loops.nodes import Expr


def flat(point: Sequence[int], shape: Sequence[int]) -> int:
    number = 0
    for i, extent in zip(point, shape, strict=True):
        number = number * extent + i
    return number


def transformed(
    k: KernelBuilder,
    matrices: Sequence[Matrix],
    source: Callable[[tuple[int, ...]], Expr],
    like: Buffer,
    lanes: int,
    v: Affine,
) -> Iterator[Expr]:
    """A matrix applied along each axis of a small array of vectors; the results, row-major.

    ``source`` gives the array's elements; intermediate ones are kept in locals.
    """
    shape = [len(matrix[0]) for matrix in matrices]
    for axis, matrix in enumerate(matrices):
        after = [*shape[:axis], len(matrix), *shape[axis + 1 :]]
        stage = k.local("stage", like.dtype, (prod(after), lanes))
        for rest in product(*(range(1 if a == axis else n) for a, n in enumerate(shape))):

            along = _along(source, rest, axis)
            for i, value in _matrix_times(k, matrix, along, like, lanes, v):
                place = flat((*rest[:axis], i, *rest[axis + 1 :]), after)
                k.store(stage[place, v], value)
        shape = after
        source = _reader(stage, tuple(after), v)
    return (source(point) for point in product(*map(range, shape)))


def _along(
    source: Callable[[tuple[int, ...]], Expr], rest: tuple[int, ...], axis: int
) -> Callable[[int], Expr]:
    """The elements on a line through ``rest``, along one axis."""
    return lambda i: source((*rest[:axis], i, *rest[axis + 1 :]))


def _reader(stage: Buffer, shape: tuple[int, ...], v: Affine) -> Callable[[tuple[int, ...]], Expr]:
    return lambda point: stage[flat(point, shape), v]


def _matrix_times(
    k: KernelBuilder,
    matrix: Matrix,
    element: Callable[[int], Expr],
    like: Buffer,
    lanes: int,
    v: Affine,
) -> Iterator[tuple[int, Expr]]:
    """Rows of matrix times vector. Rows that differ by signs share their two partial sums."""
    done: set[int] = set()
    partners = _partners(matrix)
    for i, row in enumerate(matrix):
        if i in done:
            continue
        partner = partners[i]
        if partner is None:
            yield i, _combination(k, row, element, like)
            continue
        done.add(partner)
        other = matrix[partner]
        same = [a if a == b else Fraction(0) for a, b in zip(row, other, strict=True)]
        opposite = [a if a != b else Fraction(0) for a, b in zip(row, other, strict=True)]
        halves = k.local("halves", like.dtype, (2, lanes))
        k.store(halves[0, v], _combination(k, same, element, like))
        k.store(halves[1, v], _combination(k, opposite, element, like))
        yield i, halves[0, v] + halves[1, v]
        yield partner, halves[0, v] - halves[1, v]


@cache
def _partners(matrix: Matrix) -> tuple[int | None, ...]:
    return tuple(_partner(matrix, i) for i in range(len(matrix)))


def _partner(matrix: Matrix, i: int) -> int | None:
    """A later row with the same magnitudes, some signs equal and some opposite."""
    for j in range(i + 1, len(matrix)):
        pairs = list(zip(matrix[i], matrix[j], strict=True))
        equal = [a for a, b in pairs if a and a == b]
        opposite = [a for a, b in pairs if a and a == -b]
        rest = [a for a, b in pairs if abs(a) != abs(b)]
        if len(equal) > 0 and len(opposite) > 0 and len(equal) + len(opposite) > 2 and not rest:
            return j
    return None


def _combination(
    k: KernelBuilder, row: Sequence[Fraction], element: Callable[[int], Expr], like: Buffer
) -> Expr:
    """The sum of the elements times the row's entries; terms with the entry 1 come first."""
    terms = sorted((j for j, c in enumerate(row) if c), key=lambda j: row[j] != 1)
    total: Expr | None = None
    for j in terms:
        value, factor = element(j), row[j]
        if total is None:
            total = value if factor == 1 else value * k.constant(float(factor), like.dtype)
        elif abs(factor) == 1:
            total = total + value if factor > 0 else total - value
        else:
            total = fma(value, k.constant(float(factor), like.dtype), total)
    return total if total is not None else k.constant(0, like.dtype)
