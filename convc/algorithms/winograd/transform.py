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

Terms = tuple[tuple[int, float], ...]  # positions in a vector, and factors
Rows = tuple[tuple[int, int | None, tuple[Terms, ...]], ...]


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
        rows, read = _rows(matrix), cache(source)  # most elements are read for several rows
        for rest in product(*(range(1 if a == axis else n) for a, n in enumerate(shape))):
            along = _along(read, rest, axis)
            for i, value in _applied(k, rows, along, like, lanes, v):
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


def _applied(
    k: KernelBuilder,
    rows: Rows,
    element: Callable[[int], Expr],
    like: Buffer,
    lanes: int,
    v: Affine,
) -> Iterator[tuple[int, Expr]]:
    """Rows of matrix times vector. Rows that differ by signs share their two partial sums."""
    for i, partner, sums in rows:
        if partner is None:
            yield i, _combination(k, sums[0], element, like)
            continue
        halves = k.local("halves", like.dtype, (2, lanes))
        for half, terms in enumerate(sums):
            k.store(halves[half, v], _combination(k, terms, element, like))
        yield i, halves[0, v] + halves[1, v]
        yield partner, halves[0, v] - halves[1, v]


@cache
def _rows(matrix: Matrix) -> Rows:
    """Each row with its terms; or with another row, what they share and what differs by sign."""
    rows: list[tuple[int, int | None, tuple[Terms, ...]]] = []
    done: set[int | None] = set()
    for i, row in enumerate(matrix):
        if i in done:
            continue
        partner = _partner(matrix, i)
        if partner is None:
            rows.append((i, None, (_terms(row),)))
            continue
        done.add(partner)
        pairs = list(zip(row, matrix[partner], strict=True))
        same = _terms([a if a == b else Fraction(0) for a, b in pairs])
        opposite = _terms([a if a != b else Fraction(0) for a, b in pairs])
        rows.append((i, partner, (same, opposite)))
    return tuple(rows)


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


def _terms(row: Sequence[Fraction]) -> Terms:
    """Where the row is not zero, and its entries there; those that are 1 come first."""
    places = sorted((j for j, c in enumerate(row) if c), key=lambda j: row[j] != 1)
    return tuple((j, float(row[j])) for j in places)


def _combination(
    k: KernelBuilder, terms: Terms, element: Callable[[int], Expr], like: Buffer
) -> Expr:
    """The sum of the elements times the entries of a row."""
    total: Expr | None = None
    for j, factor in terms:
        value = element(j)
        if total is None:
            total = value if factor == 1 else value * k.constant(factor, like.dtype)
        elif abs(factor) == 1:
            total = total + value if factor > 0 else total - value
        else:
            total = fma(value, k.constant(factor, like.dtype), total)
    return total if total is not None else k.constant(0, like.dtype)
