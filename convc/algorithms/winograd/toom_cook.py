"""The matrices of minimal filtering F(m, r): m outputs of an r-tap filter in m + r - 1 products.

    y = A^T ((G w) * (B^T x))

built from m + r - 2 finite points and infinity (Winograd 1980; Lavin and Gray 2016). All entries
are exact fractions: the points interpolate the transposed polynomial product.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

POINTS = tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "4", "-4"))
Matrix = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True)
class Filtering:
    """``output`` is A^T [m, m+r-1], ``weights`` G [m+r-1, r], ``input`` B^T [m+r-1, m+r-1]."""

    output: Matrix
    weights: Matrix
    input: Matrix

    @property
    def products(self) -> int:
        return len(self.input)


@cache
def filtering(outputs: int, taps: int) -> Filtering:
    """F(outputs, taps)."""
    points = POINTS[: outputs + taps - 2]
    rows = [_others(points, i) for i in range(len(points))]
    scales = [_at(row, point) for row, point in zip(rows, points, strict=True)]
    signs = [1 if scale > 0 else -1 for scale in scales]
    powers = [[point**power for power in range(max(outputs, taps))] for point in points]
    last = [[Fraction(int(j == n - 1)) for j in range(n)] for n in (outputs, taps)]
    output = [*(row[:outputs] for row in powers), last[0]]
    weights = [
        [value * sign / scale for value in row[:taps]]
        for row, scale, sign in zip(powers, scales, signs, strict=True)
    ]
    inputs = [
        [*(value * sign for value in row), Fraction(0)]
        for row, sign in zip(rows, signs, strict=True)
    ]
    inputs.append(_others(points, None))
    return Filtering(
        tuple(zip(*output, strict=True)),
        tuple(map(tuple, [*weights, last[1]])),
        tuple(map(tuple, inputs)),
    )


def _others(points: tuple[Fraction, ...], left_out: int | None) -> list[Fraction]:
    """Coefficients, lowest first, of the product of (x - p) over all points but one."""
    coefficients = [Fraction(1)]
    for number, point in enumerate(points):
        if number != left_out:
            shifted = [Fraction(0), *coefficients]
            scaled = [*(-point * c for c in coefficients), Fraction(0)]
            coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _at(coefficients: list[Fraction], x: Fraction) -> Fraction:
    return sum((c * x**power for power, c in enumerate(coefficients)), Fraction(0))
