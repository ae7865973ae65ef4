"""exp, log, tanh, erf, pow and their kind: errors in units of the last place, special numbers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

from convc.backend.jit import compile_kernel
from convc.backend.target import available, target_named
from convc.schedule import segments
from ir.loops import KernelBuilder
from ir.loops.builder import call
from ir.numeric import erf
from ir.types import Array

FLOATS = {"f32": np.float32, "f64": np.float64}
# function, reference in a wider type, where it is neither 0, 1 nor infinite in f32 and f64
FUNCTIONS: dict[str, tuple[Callable[[Array], Array], tuple[float, float], tuple[float, float]]] = {
    "exp": (np.exp, (-103, 88.7), (-744, 709.7)),
    "expm1": (np.expm1, (-20, 88.7), (-40, 709.7)),
    "log": (np.log, (1e-30, 9), (1e-300, 9)),
    "tanh": (np.tanh, (-9, 9), (-19, 19)),
    "softplus": (lambda x: np.logaddexp(x, 0), (-80, 30), (-700, 40)),
    "erf": (erf, (-4, 4), (-6, 6)),
}
MOST = {"tanh": 3.0, "softplus": 3.0}  # else 2
SPECIAL = [
    0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -0.5, 1.5, -2.5, 3.5, 1e-5, -1e-5, 89.0,
    -104.0, 710.0, -746.0, 1e10, -1e10, 0.49999997, -8388607.5, 0.99999, 3.0, 2.0**24, 2.0**53 - 1,
]  # fmt: skip


def natively(function: str, target: str, *arrays: Array) -> Array:
    """The function of every element, in vectors and in a narrower last one."""
    machine, count = target_named(target), len(arrays[0])
    dtype = {np.dtype(wide): name for name, wide in FLOATS.items()}[arrays[0].dtype]
    k = KernelBuilder(function)
    buffers = [k.read("x", dtype, (count,)) for _ in arrays]
    y = k.write("y", dtype, (count,))
    lanes = machine.lanes(dtype)
    for first, trips, width in segments(count, lanes):
        with k.loop("i", trips, "parallel") as i, k.loop("v", width, "vector") as v:
            at = i * width + v + first
            k.store(y[at], call(function, *(x[at] for x in buffers)))
    kernel = k.build()
    result = np.empty_like(arrays[0])
    addresses = [array.ctypes.data for array in (*arrays, result)]
    table = (ctypes.c_void_p * len(addresses))(*addresses)
    compile_kernel(kernel, machine).kernel()(table, 0, kernel.tasks, None)
    return result


def wider(array: Array) -> Array:
    """The same numbers with more digits."""
    return array.astype(np.float64 if array.dtype == np.float32 else np.longdouble)


def units(result: Array, reference: Array) -> Array:
    """Errors in units of the last place of the reference."""
    place = np.spacing(np.abs(reference).astype(result.dtype)).astype(reference.dtype)
    return np.abs(result.astype(reference.dtype) - reference) / place


def points(rng: np.random.Generator, low: float, high: float, dtype: str) -> Array:
    """All over an interval, near 0 or its end, and near 1."""
    count = 20000
    span = rng.uniform(low, high, count)
    tiny = rng.choice([low, high], count) * 10.0 ** rng.uniform(-9, 0, count)
    one = rng.uniform(0.5, 2, count) if low > 0 else rng.uniform(-1.2, 1.2, count)
    small = np.clip(tiny, low, high) if low > 0 else tiny
    return np.concatenate([span, small, one]).astype(FLOATS[dtype])


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_few_units_in_the_last_place(name: str, dtype: str, target: str) -> None:
    reference, *ranges = FUNCTIONS[name]
    x = points(np.random.default_rng(0), *ranges[dtype == "f64"], dtype)
    exact = reference(x) if name == "erf" and dtype == "f64" else reference(wider(x))
    assert units(natively(name, target, x), exact).max() <= MOST.get(name, 2.0)


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("dtype", FLOATS)
def test_powers_are_right_to_about_a_unit_whatever_the_exponent(dtype: str, target: str) -> None:
    rng = np.random.default_rng(1)
    near, far = 1 + rng.uniform(-1e-3, 1e-3, 20000), np.exp(rng.uniform(-60, 60, 20000))
    a = np.concatenate([near, far]).astype(FLOATS[dtype])
    limit = 87 if dtype == "f32" else 708
    a = a[a != 1]
    b = (rng.uniform(-limit, limit, a.size) / np.log(a.astype(np.float64))).astype(a.dtype)
    b[:1000] = rng.uniform(-3, 3, 1000)
    exact = np.power(wider(a), wider(b))
    inside = np.abs(np.log(exact)) < limit
    assert units(natively("pow", target, a, b), exact)[inside].max() <= 1.1


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [*FUNCTIONS, "rint", "floor", "ceil"])
def test_special_numbers(name: str, dtype: str, target: str) -> None:
    info = np.finfo(FLOATS[dtype])
    edges = [info.smallest_subnormal, -info.smallest_subnormal, info.tiny, info.max, -info.max]
    x = np.array([*SPECIAL, *edges, info.tiny / 4, -info.tiny / 4], FLOATS[dtype])
    with np.errstate(all="ignore"):
        want = FUNCTIONS[name][0](x) if name in FUNCTIONS else getattr(np, name)(x)
    got = natively(name, target, x)
    np.testing.assert_allclose(got, want, rtol=3 * info.eps, atol=info.smallest_subnormal)
    if name != "softplus":
        np.testing.assert_array_equal(np.signbit(got)[want == 0], np.signbit(want)[want == 0])


@pytest.mark.parametrize("target", available())
@pytest.mark.parametrize("dtype", FLOATS)
def test_special_powers(dtype: str, target: str) -> None:
    """As C and IEEE 754 have them: 1 to any power, odd and even ones of negative numbers, …"""
    a, b = (part.reshape(-1).astype(FLOATS[dtype]) for part in np.meshgrid(SPECIAL, SPECIAL))
    with np.errstate(all="ignore"):
        want = np.float_power(a, b).astype(a.dtype)
    got = natively("pow", target, a, b)
    np.testing.assert_allclose(got, want, rtol=2 * np.finfo(a.dtype).eps)
    known = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got)[known], np.signbit(want)[known])
