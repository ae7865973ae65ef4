"""exp, log, tanh, erf, softplus and rounding as instructions on vectors of any width, f32 and f64.

Most reduce their argument to a short interval, where a polynomial is enough, and put the exponent
back as bits. Infinities, NaN, zeros and subnormal numbers give what IEEE 754 recommends. Tests
hold the errors, in units of the last place: at most 2, of tanh 3.

Sources: Muller, Elementary Functions, 3rd ed., chapters 3 and 11; fdlibm, e_log.c.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from convc.backend.instructions import Emitter, Value
from convc.backend.lanes import F32, Bits, Format, Lanes, where


class Constants(NamedTuple):
    """What differs between the types.

    ``ln2`` is log 2 in two parts, the first so short that its product with an exponent is exact.
    Beyond ``limits`` exp is 0 or infinite. ``terms``: how many of the series of exp, log, softplus.
    ``near``: erf(x)/x - 1 in x² up to 1, relative to erf(x)/x. ``tail``: log(erfc(1 + t)) up to
    ``tail_end``, from where on erf is 1, weighted by erfc. Both are minimax polynomials, whose
    errors are 1.2e-9 and 1.1e-9 in f32, 7.4e-18 and 6.7e-18 in f64.
    """

    ln2: tuple[float, float]
    limits: tuple[float, float]
    terms: tuple[int, int, int]
    near: tuple[float, ...]
    tail: tuple[float, ...]
    tail_end: float


OF_F32 = Constants(
    (0.693359375, -2.1219444005469057e-4), (-104.0, 89.0), (8, 4, 8),
    (0.12837916572955937, -0.376126258374651, 0.11283585248605635, -0.02685381458207252,
     0.005188330482592488, -0.0008010202699272506, 7.853849828429409e-05),
    (-1.8496055164799885, -2.6389668159780224, -0.843118335943726, -0.041500689608486234,
     0.009890892789222226, -0.001826162767006727, 0.00018557359899752838), 3.0,
)  # fmt: skip
OF_F64 = Constants(
    (0.6931471803691238, 1.9082149292705877e-10), (-746.0, 710.0), (14, 10, 17),
    (0.12837916709551256, -0.3761263890318352, 0.112837916709442, -0.026866170643113415,
     0.005223977606130842, -0.0008548325929766244, 0.0001205529358693695, -1.4924712439534814e-05,
     1.6447132699786621e-06, -1.6206318752969208e-07, 1.3710988704190523e-08,
     -7.779462971761597e-10),
    (-1.8496055099332482, -2.6389675142347757, -0.8431072563594125, -0.04156109802508014,
     0.010033825179109826, -0.001977901215698808, 0.0002373164343344623, 2.6296328112544425e-05,
     -2.7198975080073612e-05, 9.671380702205931e-06, -2.1319441478731673e-06,
     2.0481556730159732e-07, 5.800940541384291e-08, -3.339033050395238e-08, 8.518502453916215e-09,
     -1.3190518993984098e-09, 1.1932022811030046e-10, -4.864742504739347e-12), 5.0,
)  # fmt: skip


def constants(format: Format) -> Constants:
    """Those of a type."""
    return OF_F32 if format is F32 else OF_F64


def exp(emitter: Emitter, value: Value) -> Value:
    """e^x: 2^k·e^r with |r| ≤ log(2)/2."""
    x = Lanes(emitter, value)
    return exp_of_sum(x, x.constant(0.0)).value


def exp_of_sum(x: Lanes, small: Lanes, terms: int | None = None) -> Lanes:
    """e^(x + small). It is scaled in two steps, for 2^k itself may not be a number."""
    low, high = constants(x.format).limits
    k, less_one = exponent_and_rest(x.at_least(low).at_most(high), small, terms)
    twice = k + 2 * x.format.bias
    half = twice >> 1
    scale, rest = half << x.format.fraction, (twice - half) << x.format.fraction
    return (less_one + 1.0) * scale.number() * rest.number()


def expm1(emitter: Emitter, value: Value) -> Value:
    """e^x - 1, accurate near 0."""
    x = Lanes(emitter, value)
    return _expm1(x).with_sign_of(x).value


def _expm1(x: Lanes) -> Lanes:
    """2·(2^(k-1)·(e^r - 1) + 2^(k-1) - ½)."""
    high = constants(x.format).limits[1]
    k, less_one = exponent_and_rest(x.at_least(-x.format.bits).at_most(high))
    scale = ((k + (x.format.bias - 1)) << x.format.fraction).number()
    return less_one.times_plus(scale, scale - 0.5) * 2.0


def exponent_and_rest(
    x: Lanes, small: Lanes | None = None, terms: int | None = None
) -> tuple[Bits, Lanes]:
    """k and e^r - 1 where x + small = k·log(2) + r, k whole and |r| ≤ log(2)/2."""
    high, low = constants(x.format).ln2
    magic = x.constant(1.5 * x.format.whole)  # added to a number, it leaves whole ones
    shifted = x.times_plus(1 / math.log(2), magic)
    k = shifted - magic
    r = k.times_plus(-low, k.times_plus(-high, x))
    r = r if small is None else r + small
    terms = terms or constants(x.format).terms[0]
    series = r.polynomial([1 / math.factorial(n) for n in range(2, terms)])
    return shifted.bits() - magic.bits(), (r * r).times_plus(series, r)


def log(emitter: Emitter, value: Value) -> Value:
    """The natural logarithm of x = 2^k·m with √½ ≤ m < √2."""
    return natural_log(Lanes(emitter, value)).value


def natural_log(x: Lanes, terms: int | None = None) -> Lanes:
    """With f = m - 1 and s = f/(2 + f): log m = f - s·(f - R), R = 2s²/3 + 2s⁴/5 + …"""
    k, m = exponent_and_fraction(x)
    f = m - 1.0
    s = f / (f + 2.0)
    z = s * s
    terms = terms or constants(x.format).terms[1]
    series = z * z.polynomial([2 / (2 * n + 3) for n in range(terms)])
    half = f * f * 0.5
    high, low = constants(x.format).ln2
    small = k.times_plus(low, s * (half + series))
    result = k.times_plus(high, f - (half - small))
    result = where(x < math.inf, result, x)
    result = where(x.equals(0.0), x.constant(-math.inf), result)
    return where(x < 0.0, x.constant(math.nan), result)


def exponent_and_fraction(x: Lanes) -> tuple[Lanes, Lanes]:
    """k and m of a positive number x = 2^k·m with √½ ≤ m < √2; of others something finite."""
    format = x.format
    tiny = x < 2.0 ** (1 - format.bias)
    bits = where(tiny, x * format.whole, x).bits()
    start = x.constant(math.sqrt(0.5)).bits()
    moved = bits + x.constant(1.0).bits() - start
    counted = ((moved >> format.fraction) | x.constant(format.whole).bits()).number()
    k = counted - where(tiny, *(x.constant(format.whole + format.bias + n)
                                for n in (format.fraction, 0)))  # fmt: skip
    return k, ((moved & (2**format.fraction - 1)) + start).number()


def softplus(emitter: Emitter, value: Value) -> Value:
    """log(1 + e^x) = max(x, 0) + log(1 + t), t = e^-|x|; the last is 2s·(1 + s²/3 + s⁴/5 + …) with
    s = t/(2 + t) ≤ ⅓."""
    x = Lanes(emitter, value)
    t = Lanes(emitter, exp(emitter, (-x.magnitude()).value))
    s = t / (t + 2.0)
    z = s * s
    terms = constants(x.format).terms[2]
    series = z * z.polynomial([2 / (2 * n + 1) for n in range(1, terms)])
    return (x.at_least(0.0) + s.times_plus(series, s * 2.0)).value


def tanh(emitter: Emitter, value: Value) -> Value:
    """From t = e^(2|x|) - 1: t/(t + 2), with the sign of x."""
    x = Lanes(emitter, value)
    t = _expm1((x.magnitude() * 2.0).at_most(x.format.bits))
    return (t / (t + 2.0)).with_sign_of(x).value


def erf(emitter: Emitter, value: Value) -> Value:
    """The error function: x + x·near(x²) up to 1, 1 - e^tail beyond."""
    x = Lanes(emitter, value)
    size, chosen = x.magnitude(), constants(x.format)
    inner = size.at_most(1.0)
    near = (inner * inner).polynomial(chosen.near).times_plus(x, x)
    tail = (size - 1.0).at_least(0.0).at_most(chosen.tail_end).polynomial(chosen.tail)
    k, less_one = exponent_and_rest(tail)
    scale = ((k + x.format.bias) << x.format.fraction).number()
    far = 1.0 - (less_one + 1.0) * scale
    return where(size < 1.0, near, far.with_sign_of(x)).value


def rint(emitter: Emitter, value: Value) -> Value:
    """The nearest whole number, of two the even one."""
    return rounded(Lanes(emitter, value)).value


def rounded(x: Lanes) -> Lanes:
    size, whole = x.magnitude(), x.format.whole
    return where(size < whole, ((size + whole) - whole).with_sign_of(x), x)


def floor(emitter: Emitter, value: Value) -> Value:
    """The next whole number downwards."""
    x = Lanes(emitter, value)
    nearest = rounded(x)
    return where(nearest > x, nearest - 1.0, nearest).value


def ceil(emitter: Emitter, value: Value) -> Value:
    """The next whole number upwards."""
    x = Lanes(emitter, value)
    nearest = rounded(x)
    return where(nearest < x, (nearest + 1.0).with_sign_of(x), nearest).value
