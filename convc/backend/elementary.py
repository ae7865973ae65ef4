"""exp, log, tanh, erf, pow and rounding as instructions on vectors of any width, f32 and f64.

Most reduce their argument to a short interval, where a polynomial is enough, and put the exponent
back as bits. Infinities, NaN, zeros and subnormal numbers give what IEEE 754 recommends. Tests
hold the errors, in units of the last place: at most 2, of tanh and erf 3.

Sources: Muller, Elementary Functions, 3rd ed., chapters 3 and 11; fdlibm, e_log.c.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from llvmlite import ir as llvm

from convc.backend.instructions import TYPES, Emitter, Value, intrinsic
from convc.backend.lanes import F32, Bits, Format, Lanes, where


class Constants(NamedTuple):
    """What differs between the types.

    ``ln2`` is log 2 in two parts, the first so short that its product with an exponent is exact.
    Beyond ``limits`` exp is 0 or infinite. ``terms``: how many of the series of exp, log and erf.
    ``tail``: log(erfc(1 + t)) for t up to ``tail_end``, from where on erf is 1; a minimax
    polynomial whose errors are weighted by erfc, at most 1.1e-9 and 6.7e-18.
    """

    ln2: tuple[float, float]
    limits: tuple[float, float]
    terms: tuple[int, int, int]
    tail: tuple[float, ...]
    tail_end: float


OF_F32 = Constants(
    (0.693359375, -2.1219444005469057e-4), (-104.0, 89.0), (8, 4, 11),
    (-1.8496055164799885, -2.6389668159780224, -0.843118335943726, -0.041500689608486234,
     0.009890892789222226, -0.001826162767006727, 0.00018557359899752838), 3.0,
)  # fmt: skip
OF_F64 = Constants(
    (0.6931471803691238, 1.9082149292705877e-10), (-746.0, 710.0), (14, 10, 18),
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
    """e^x: 2^k·e^r with |r| ≤ log(2)/2, scaled in two steps, for 2^k itself may not be a number."""
    x = Lanes(emitter, value)
    format = x.format
    low, high = constants(format).limits
    k, less_one = _exponent_and_rest(x.at_least(low).at_most(high))
    twice = k + 2 * format.bias
    half = twice >> 1
    scale, rest = half << format.fraction, (twice - half) << format.fraction
    return ((less_one + 1.0) * scale.number() * rest.number()).value


def expm1(emitter: Emitter, value: Value) -> Value:
    """e^x - 1, accurate near 0."""
    x = Lanes(emitter, value)
    return _expm1(x).with_sign_of(x).value


def _expm1(x: Lanes) -> Lanes:
    """2·(2^(k-1)·(e^r - 1) + 2^(k-1) - ½)."""
    high = constants(x.format).limits[1]
    k, less_one = _exponent_and_rest(x.at_least(-x.format.bits).at_most(high))
    scale = ((k + (x.format.bias - 1)) << x.format.fraction).number()
    return less_one.times_plus(scale, scale - 0.5) * 2.0


def _exponent_and_rest(x: Lanes) -> tuple[Bits, Lanes]:
    """k and e^r - 1 where x = k·log(2) + r, k whole and |r| ≤ log(2)/2."""
    high, low = constants(x.format).ln2
    magic = x.constant(1.5 * x.format.whole)  # added to a number, it leaves whole ones
    shifted = x.times_plus(1 / math.log(2), magic)
    k = shifted - magic
    r = k.times_plus(-low, k.times_plus(-high, x))
    terms = constants(x.format).terms[0]
    series = r.polynomial([1 / math.factorial(n) for n in range(2, terms)])
    return shifted.bits() - magic.bits(), (r * r).times_plus(series, r)


def log(emitter: Emitter, value: Value) -> Value:
    """The natural logarithm of x = 2^k·m with √½ ≤ m < √2."""
    return _log(Lanes(emitter, value)).value


def _log(x: Lanes) -> Lanes:
    """With f = m - 1 and s = f/(2 + f): log m = f - s·(f - R), R = 2s²/3 + 2s⁴/5 + …"""
    format = x.format
    tiny = x < 2.0 ** (1 - format.bias)
    bits = where(tiny, x * format.whole, x).bits()
    start = x.constant(math.sqrt(0.5)).bits()
    moved = bits + x.constant(1.0).bits() - start
    counted = ((moved >> format.fraction) | x.constant(format.whole).bits()).number()
    k = counted - where(tiny, *(x.constant(format.whole + format.bias + n)
                                for n in (format.fraction, 0)))  # fmt: skip
    m = ((moved & (2**format.fraction - 1)) + start).number()
    f = m - 1.0
    s = f / (f + 2.0)
    z = s * s
    terms = constants(format).terms[1]
    series = z * z.polynomial([2 / (2 * n + 3) for n in range(terms)])
    half = f * f * 0.5
    high, low = constants(format).ln2
    small = k.times_plus(low, s * (half + series))
    result = k.times_plus(high, f - (half - small))
    result = where(x < math.inf, result, x)
    result = where(x.equals(0.0), x.constant(-math.inf), result)
    return where(x < 0.0, x.constant(math.nan), result)


def log1p(emitter: Emitter, value: Value) -> Value:
    """log(1 + x): that of the rounded sum, and the first order of what was rounded off."""
    x = Lanes(emitter, value)
    u = x + 1.0
    result = _log(u)
    rest = (x - (u - 1.0)) / u
    return where(result.magnitude() < math.inf, (result + rest).with_sign_of(x), result).value


def tanh(emitter: Emitter, value: Value) -> Value:
    """From t = e^(2|x|) - 1: t/(t + 2), with the sign of x."""
    x = Lanes(emitter, value)
    t = _expm1((x.magnitude() * 2.0).at_most(x.format.bits))
    return (t / (t + 2.0)).with_sign_of(x).value


def erf(emitter: Emitter, value: Value) -> Value:
    """The error function: its series up to 1, 1 - erfc beyond."""
    x = Lanes(emitter, value)
    size, chosen = x.magnitude(), constants(x.format)
    square = size.at_most(1.0) * size.at_most(1.0)
    root = 2 / math.sqrt(math.pi)
    terms = range(chosen.terms[2])
    first, *series = [root * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in terms]
    near = square.polynomial([first - 1, *series]).times_plus(x, x)
    tail = (size - 1.0).at_least(0.0).at_most(chosen.tail_end).polynomial(chosen.tail)
    k, less_one = _exponent_and_rest(tail)
    scale = ((k + x.format.bias) << x.format.fraction).number()
    far = 1.0 - (less_one + 1.0) * scale
    return where(size < 1.0, near, far.with_sign_of(x)).value


def power(emitter: Emitter, base: Value, exponent: Value) -> Value:
    """a^b. In f32 e^(b·log a) in f64, whose error no f32 shows; in f64 the C library's ``pow``."""
    a, b = Lanes(emitter, base), Lanes(emitter, exponent)
    if a.format is not F32:
        return intrinsic(emitter, "pow", base, exponent)
    product = _wide(b) * _log(_wide(a.magnitude()))
    product = where(a.magnitude().equals(1.0), product.constant(0.0), product)
    size = _narrow(Lanes(emitter, exp(emitter, product.value)))
    is_whole = b.equals(_rounded(b))
    is_even = (b * 0.5).equals(_rounded(b * 0.5))
    builder = emitter.builder
    result = where(builder.and_(is_whole, builder.not_(is_even)), size.with_sign_of(a), size)
    is_negative = builder.and_(a < 0.0, a > -math.inf)
    result = where(builder.and_(is_negative, builder.not_(is_whole)), b.constant(math.nan), result)
    return where(b.equals(0.0), b.constant(1.0), result).value


def rint(emitter: Emitter, value: Value) -> Value:
    """The nearest whole number, of two the even one."""
    return _rounded(Lanes(emitter, value)).value


def _rounded(x: Lanes) -> Lanes:
    size, whole = x.magnitude(), x.format.whole
    return where(size < whole, ((size + whole) - whole).with_sign_of(x), x)


def floor(emitter: Emitter, value: Value) -> Value:
    """The next whole number downwards."""
    x = Lanes(emitter, value)
    nearest = _rounded(x)
    return where(nearest > x, nearest - 1.0, nearest).value


def ceil(emitter: Emitter, value: Value) -> Value:
    """The next whole number upwards."""
    x = Lanes(emitter, value)
    nearest = _rounded(x)
    return where(nearest < x, (nearest + 1.0).with_sign_of(x), nearest).value


def _wide(x: Lanes) -> Lanes:
    return Lanes(x.emitter, x.emitter.builder.fpext(x.value, _like(x, "f64")))


def _narrow(x: Lanes) -> Lanes:
    return Lanes(x.emitter, x.emitter.builder.fptrunc(x.value, _like(x, "f32")))


def _like(x: Lanes, name: str) -> Value:
    kind = x.value.type
    element = TYPES[name]
    return llvm.VectorType(element, kind.count) if isinstance(kind, llvm.VectorType) else element
