"""Discrete Fourier transforms of a few points in registers: the butterflies of longer ones.

    X[k] = sum over j of x[j] * exp(-2 pi i j k / n)

2, 3, 4 and 5 points have formulas of their own (Winograd 1978); other lengths are composed: of
coprime factors without twiddles (Good 1958), else by the steps of Cooley and Tukey (1965). None
stands for a point known to be zero: no code is made for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from math import cos, gcd, pi, sin, sqrt

from ir.loops import Affine, KernelBuilder
from ir.loops.builder import call, fma
from ir.loops.nodes import Const, Expr, Scalar

Complex = tuple[Expr, Expr]
Point = Complex | None  # None: zero
Line = Sequence[Point]


@dataclass(frozen=True)
class Arithmetic:
    """Complex arithmetic inside one vector loop; every result is a local, computed once."""

    k: KernelBuilder
    dtype: Scalar
    lanes: int
    v: Affine
    _numbers: Iterator[int] = field(default_factory=count)

    def keep(self, value: Expr) -> Expr:
        local = self.k.local(f"t{next(self._numbers)}", self.dtype, (self.lanes,))
        self.k.store(local[self.v], value)
        return local[self.v]

    def both(self, re: Expr, im: Expr) -> Complex:
        return self.keep(re), self.keep(im)

    def number(self, value: float) -> Const:
        return self.k.constant(value, self.dtype)

    def add(self, a: Point, b: Point) -> Point:
        if a is None or b is None:
            return a or b
        return self.both(a[0] + b[0], a[1] + b[1])

    def subtract(self, a: Point, b: Point) -> Point:
        if b is None:
            return a
        if a is None:
            return self.both(call("neg", b[0]), call("neg", b[1]))
        return self.both(a[0] - b[0], a[1] - b[1])

    def multiply(self, a: Point, b: Complex) -> Point:
        if a is None:
            return None
        re, im = (self.keep(a[0] * part) for part in b)
        return self.both(fma(call("neg", a[1]), b[1], re), fma(a[1], b[0], im))

    def scaled(self, a: Point, factor: Expr) -> Point:
        return None if a is None else self.both(a[0] * factor, a[1] * factor)

    def plus(self, a: Point, factor: float, b: Point) -> Point:
        """a + factor * b."""
        if b is None:
            return a
        if a is None:
            return self.scaled(b, self.number(factor))
        number = self.number(factor)
        return self.both(fma(b[0], number, a[0]), fma(b[1], number, a[1]))

    def turned(self, a: Point) -> Point:
        """-i * a."""
        return None if a is None else (a[1], self.keep(call("neg", a[0])))

    def rotated(self, a: Point, part: int, whole: int) -> Point:
        """a * exp(-2 pi i part / whole)."""
        eighths, rest = divmod(8 * (part % whole), whole)
        for _ in range(eighths // 2 if not rest else 0):
            a = self.turned(a)
        if rest:
            angle = 2 * pi * (part % whole) / whole
            return self.multiply(a, (self.number(cos(angle)), self.number(-sin(angle))))
        if eighths % 2 == 0 or a is None:
            return a
        half = self.number(sqrt(0.5))
        return self.scaled(self.both(a[0] + a[1], a[1] - a[0]), half)


def transform(m: Arithmetic, x: Line) -> list[Point]:
    """The transform of a few points."""
    if len(x) in BASES:
        return BASES[len(x)](m, x)
    first = _factor(len(x))
    second = len(x) // first
    if gcd(first, second) == 1:
        return _coprime(m, x, first, second)
    return _mixed(m, x, first, second)


@cache
def _factor(length: int) -> int:
    """A factor to split a length at: one of few terms, coprime to the rest if there is one."""
    factors = [n for n in (4, 2, 3, 5) if length % n == 0]
    if not factors:
        raise ValueError(f"a transform of {length} points: 2, 3 and 5 are the factors")
    coprime = (n for n in factors if gcd(n, length // n) == 1 and n < length)
    return next(coprime, factors[0])


def _one(_: Arithmetic, x: Line) -> list[Point]:
    return list(x)


def _two(m: Arithmetic, x: Line) -> list[Point]:
    return [m.add(x[0], x[1]), m.subtract(x[0], x[1])]


def _three(m: Arithmetic, x: Line) -> list[Point]:
    total, difference = m.add(x[1], x[2]), m.turned(m.subtract(x[1], x[2]))
    middle, side = m.plus(x[0], -0.5, total), sqrt(0.75)
    return [m.add(x[0], total), m.plus(middle, side, difference), m.plus(middle, -side, difference)]


def _four(m: Arithmetic, x: Line) -> list[Point]:
    even, odd = _two(m, x[0::2]), _two(m, x[1::2])
    first, second = _two(m, (even[0], odd[0])), _two(m, (even[1], m.turned(odd[1])))
    return [first[0], second[0], first[1], second[1]]


def _five(m: Arithmetic, x: Line) -> list[Point]:
    near, far = _two(m, (x[1], x[4])), _two(m, (x[2], x[3]))
    c, s = ([f(2 * pi * j / 5) for j in (1, 2)] for f in (cos, sin))
    total = m.add(x[0], m.add(near[0], far[0]))
    middles = [m.plus(m.plus(x[0], c[0], near[0]), c[1], far[0]),
               m.plus(m.plus(x[0], c[1], near[0]), c[0], far[0])]  # fmt: skip
    a, b = m.turned(near[1]), m.turned(far[1])
    first = m.plus(m.plus(middles[0], s[0], a), s[1], b)
    second = m.plus(m.plus(middles[1], s[1], a), -s[0], b)
    third = m.plus(m.plus(middles[1], -s[1], a), s[0], b)
    fourth = m.plus(m.plus(middles[0], -s[0], a), -s[1], b)
    return [total, first, second, third, fourth]


BASES: dict[int, Callable[[Arithmetic, Line], list[Point]]] = {
    1: _one, 2: _two, 3: _three, 4: _four, 5: _five,
}  # fmt: skip


def _coprime(m: Arithmetic, x: Line, first: int, second: int) -> list[Point]:
    """Both factors' transforms, indexed so that no twiddles remain."""
    length = first * second
    rows = [
        transform(m, [x[(second * i + first * j) % length] for i in range(first)])
        for j in range(second)
    ]
    ones = [second * pow(second, -1, first), first * pow(first, -1, second)]
    result: list[Point] = [None] * length
    for i in range(first):
        for j, value in enumerate(transform(m, [row[i] for row in rows])):
            result[(ones[0] * i + ones[1] * j) % length] = value
    return result


def _mixed(m: Arithmetic, x: Line, first: int, second: int) -> list[Point]:
    """``second`` transforms of ``first`` points, twiddles, the other way round."""
    rows = [transform(m, x[j::second]) for j in range(second)]
    result: list[Point] = [None] * len(x)
    for i in range(first):
        column = [m.rotated(row[i], i * j, len(x)) for j, row in enumerate(rows)]
        result[i::first] = transform(m, column)
    return result
