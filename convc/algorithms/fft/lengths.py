"""Lengths of transforms: those with small prime factors, their passes and what these cost."""

from __future__ import annotations

from functools import cache

LONGEST = 16384
LOOP = 15.0  # cycles to begin and end a pass
# Points of a pass, and its operations per point: sums, differences, multiply-adds.
WORK = {2: 2.0, 3: 4.0, 4: 4.0, 5: 7.2, 6: 6.0, 8: 6.75, 9: 9.8, 10: 9.2}


@cache
def smooth() -> tuple[int, ...]:
    """The lengths 2^a 3^b 5^c."""
    lengths = {2**a * 3**b * 5**c for a in range(15) for b in range(9) for c in range(7)}
    return tuple(sorted(n for n in lengths if n <= LONGEST))


@cache
def passes(length: int, even: bool = False) -> tuple[int, ...]:
    """The cheapest radices whose product is the length; ``even``: so is the first one."""
    if length in WORK or length == 1:
        return (length,)
    options = [
        (radix, *passes(length // radix))
        for radix in sorted(WORK)
        if length % radix == 0 and not (even and radix % 2)
    ]
    return min(options, key=lambda radices: (sum(map(_cycles, radices)), -radices[0]))


@cache
def cycles(length: int, even: bool = False) -> float:
    """Cycles of one transform of a line of vectors, measured on a Zen 5 core."""
    radices = passes(length, even)
    return length * sum(map(_cycles, radices)) + LOOP * len(radices)


def _cycles(radix: int) -> float:
    """Per point of a pass: loads, stores and the loop; arithmetic, twiddles among it."""
    return 1.1 + (WORK.get(radix, 0.0) + 3.5) / 3
