"""a^b: the logarithm of a to twice the digits, times b, as an exponent.

In f32 the digits of f64 are enough. In f64 numbers are sums of two: the second holds what the
rounding of the first left off, which takes an exact product (Dekker 1971 where there is no fused
multiply-add). Special numbers give what IEEE 754 demands of ``pow``; the error is hardly more than
one unit in the last place.
"""

from __future__ import annotations

import math

from llvmlite import ir as llvm

from convc.backend.elementary import (
    OF_F64,
    exp_of_sum,
    exponent_and_fraction,
    natural_log,
    rounded,
)
from convc.backend.instructions import TYPES, Emitter, Value
from convc.backend.lanes import F32, Lanes, where

Pair = tuple[Lanes, Lanes]  # their sum, the second within the rounding error of the first
LOG_TERMS, EXP_TERMS = 6, 9  # of the series in f64 whose errors no f32 shows
HUGE = 1e20  # a larger exponent gives 0, 1 or infinity just as this one
SPLIT = 2.0**27 + 1
THIRD = 1 / 3, 1.850371707708594e-17  # ⅓ and what is left of it


def power(emitter: Emitter, base: Value, exponent: Value) -> Value:
    """a^b, NaN for a negative a and a b that is not whole."""
    a, b = Lanes(emitter, base), Lanes(emitter, exponent)
    size = _single(a.magnitude(), b) if a.format is F32 else _double(a.magnitude(), b)
    builder = emitter.builder
    is_whole, is_even = b.equals(rounded(b)), (b * 0.5).equals(rounded(b * 0.5))
    result = where(builder.and_(is_whole, builder.not_(is_even)), size.with_sign_of(a), size)
    is_negative = builder.and_(a < 0.0, a > -math.inf)
    result = where(builder.and_(is_negative, builder.not_(is_whole)), b.constant(math.nan), result)
    return where(builder.or_(b.equals(0.0), a.equals(1.0)), b.constant(1.0), result).value


def _single(a: Lanes, b: Lanes) -> Lanes:
    """a^b of positive numbers, by way of f64."""
    log = natural_log(_converted(a, "fpext", "f64"), LOG_TERMS)
    product = _converted(b, "fpext", "f64") * log
    product = where(a.equals(1.0), product.constant(0.0), product)  # also to an infinite power
    return _converted(exp_of_sum(product, product.constant(0.0), EXP_TERMS), "fptrunc", "f32")


def _converted(x: Lanes, operation: str, name: str) -> Lanes:
    kind = x.value.type
    wide = isinstance(kind, llvm.VectorType)
    target = llvm.VectorType(TYPES[name], kind.count) if wide else TYPES[name]
    return Lanes(x.emitter, getattr(x.emitter.builder, operation)(x.value, target))


def _double(a: Lanes, b: Lanes) -> Lanes:
    """a^b of positive numbers: both parts of the logarithm times b."""
    high, low = _log(a)
    limited = b.at_least(-HUGE).at_most(HUGE)
    product, rest = _product(limited, high)
    rest = limited.times_plus(low, rest).at_least(-0.1).at_most(0.1)  # more is beyond all limits
    size = exp_of_sum(product, rest)
    up = where(b < 0.0, b.constant(0.0), b.constant(math.inf))
    down = where(b < 0.0, b.constant(math.inf), b.constant(0.0))
    size = where(a.equals(math.inf), up, where(a.equals(0.0), down, size))
    return where(b.equals(b), where(a.equals(a), size, a), b)


def _log(a: Lanes) -> Pair:
    """With s = (m - 1)/(m + 1): log m = 2s·(1 + q), q = s²/3 + s⁴/5 + …"""
    k, m = exponent_and_fraction(a)
    s, s_rest = _quotient(m)
    z, z_rest = _product(s, s)
    z_rest = z_rest + 2.0 * s * s_rest
    q, q_rest = _product(z, z.constant(THIRD[0]))
    beyond = z * z * z.polynomial([1 / (2 * n + 5) for n in range(10)])
    q_rest = beyond + (q_rest + (z * THIRD[1] + z_rest * THIRD[0]))
    twice = 2.0 * s
    u, u_rest = _product(twice, q)
    u_rest = u_rest + (twice * q_rest + 2.0 * s_rest * q)
    high, low = OF_F64.ln2
    total, first = _sum(k * high, twice)
    total, second = _sum(total, u)
    rest = k * low + (u_rest + (2.0 * s_rest + (first + second)))
    return _sum(total, rest)


def _quotient(m: Lanes) -> Pair:
    """(m - 1)/(m + 1); the numerator is exact."""
    numerator = m - 1.0
    divisor = m + 1.0
    left = (1.0 - (divisor - m)) + (m - (divisor - (divisor - m)))
    s = numerator / divisor
    product, rest = _product(s, divisor)
    return s, ((numerator - product) - rest - s * left) / divisor


def _sum(a: Lanes, b: Lanes) -> Pair:
    """The sum of two numbers, of which the first is 0 or not the smaller one."""
    total = a + b
    return total, b - (total - a)


def _product(a: Lanes, b: Lanes) -> Pair:
    """The product of two numbers, exactly."""
    product = a * b
    if a.emitter.target.fused_multiply_add:
        return product, a.times_plus(b, -product)
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return product, a2 * b2 - (((product - a1 * b1) - a2 * b1) - a1 * b2)


def _halves(a: Lanes) -> Pair:
    """A number as a sum of two with half of the digits."""
    scaled = a * SPLIT
    high = scaled - (scaled - a)
    return high, a - high
