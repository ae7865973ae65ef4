"""One meaning, two readers: interpreted loops and machine code agree on every kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.backend.target import available, target_named
from ir.loops import Affine, Buffer, Kernel, KernelBuilder, interpret, parse, to_text
from ir.loops.builder import call, fma, maximum, select
from ir.loops.functions import FUNCTIONS
from ir.loops.interpreter import NUMPY
from ir.loops.nodes import Call, Clamped, Expr, Load, LoopKind, Position
from ir.types import Array
from tests.loops_runner import natively


def task(*body: str) -> Kernel:
    """One task from x to y, eight numbers each."""
    opening = "kernel k(in x: f32[8], out y: f32[8]) { parallel t in 0..1 {"
    return parse("\n".join([opening, *body, "} }"]))


def evaluate(kernel: Kernel, arrays: Mapping[str, Array]) -> Iterator[Array]:
    """What is written by the interpreter forwards and backwards, and natively on each target."""
    readers = [lambda k, a: interpret(k, a), lambda k, a: interpret(k, a, reverse=True)]
    readers += [natively(target_named(target)) for target in available()]
    for reader in readers:
        copies = {name: array.copy() for name, array in arrays.items()}
        reader(kernel, list(copies.values()))
        yield from (copies[param.name] for param in kernel.params if param.writable)


NUMBERS = np.array([0.0, -0.0, 1, -2.5, 3, 1e-30, np.inf, -np.inf, np.nan, 7, -1, 0.5])
OTHERS = {"f32", "f64", "i64", "mix", "shr"}  # conversions, and functions of integers
UNARY, BINARY = (
    sorted(name for name, f in FUNCTIONS.items() if f.arity == n and name not in OTHERS)
    for n in (1, 2)
)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("kind", ["vector", "for"])
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_every_function_means_the_same_on_special_numbers(
    name: str, kind: LoopKind, dtype: str
) -> None:
    """In scalars and vectors: infinities, NaN, and zeros of both signs."""
    wide = {"f32": np.float32, "f64": np.float64}[dtype]
    first, second = (part.reshape(-1).astype(wide) for part in np.meshgrid(NUMBERS, NUMBERS))
    k = KernelBuilder("k")
    a, b = (k.read(n, dtype, first.shape) for n in "ab")
    y = k.write("y", dtype, first.shape)
    zero, one = k.constant(0, dtype), k.constant(1, dtype)
    with k.loop("t", len(NUMBERS), "parallel") as t, k.loop("v", len(NUMBERS), kind) as v:
        i = t * len(NUMBERS) + v
        args: list[Expr] = [a[i], b[i]][: FUNCTIONS[name].arity]
        if name in ("and", "or", "not"):
            args = [call("lt", arg, zero) for arg in args]
        value: Expr = Call(name, tuple(args))
        if FUNCTIONS[name].typing((dtype,) * len(args)) in (None, "bool"):  # type: ignore[arg-type]
            value = select(value, one, zero)
        k.store(y[i], value)
    got = list(evaluate(k.build(), {"a": first, "b": second, "y": np.zeros_like(first)}))
    for other in got[1:]:
        if name in ("exp", "expm1", "log", "softplus", "tanh", "erf", "pow"):
            np.testing.assert_allclose(other, got[0], rtol=4 * np.finfo(wide).eps)
        else:
            np.testing.assert_array_equal(other, got[0])


def test_positions_and_conversions() -> None:
    kernel = parse("kernel k(in x: f64[4], out y: f32[3, 4], out z: f64[3, 4]) {"
                   " parallel n in 2..5 { vector v in 1..5 {"
                   " y[n - 2, v - 1] = f32(add(f64(#(3*v - 10*n)), x[4 - v]))"
                   " z[n - 2, v - 1] = f64(f32(mul(x[v - 1], f64(sub(#(n), 1:i64)))))"
                   " } } }")  # fmt: skip
    x = np.array([0.1, 1 / 3, -7.0, 1e300])
    y, z = np.zeros((3, 4), np.float32), np.zeros((3, 4))
    with np.errstate(over="ignore"):
        got = list(evaluate(kernel, {"x": x, "y": y, "z": z}))
        n, v = np.arange(2, 5)[:, None], np.arange(1, 5)
        want = (3 * v - 10 * n + x[4 - v]).astype(np.float32), (x * (n - 1)).astype(np.float32)
    for number, array in enumerate(got):
        np.testing.assert_array_equal(array, want[number % 2])


def test_computed_subscripts_keep_to_their_axis() -> None:
    """Read and written, in scalars and lanes; what lies beyond the axis means its nearest end."""
    kernel = parse("""
    kernel k(in x: f32[3, 4], in rows: i64[8], out y: f32[8, 4], out z: f32[4, 8]) {
      parallel t in 0..1 {
        for i in 0..8 { vector v in 0..4 { y[i, v] = x[clamp(rows[i]), v] } }
        for j in 0..4 { vector v in 0..8 {
          z[j, v] = x[clamp(rows[v]), clamp(sub(#(v), rows[j]))] } }
        for i in 0..8 { vector v in 0..4 {
          z[v, clamp(rows[i])] = add(z[v, clamp(rows[i])], x[clamp(#(i)), v]) } }
        for i in 0..8 { z[clamp(rows[i]), clamp(add(rows[i], #(i)))] = x[0, 0] }
      }
    }""")
    assert parse(to_text(kernel)) == kernel
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 10, (3, 4)).astype(np.float32)
    rows = np.array([0, 2, 3, -1, 1, -(2**63), 2**63 - 1, 1])
    near, count = np.clip(rows, 0, 2), np.arange(8)
    y, z = x[near], np.empty((4, 8), np.float32)
    with np.errstate(over="ignore"):
        for j in range(4):
            z[j] = x[near, np.clip(count - rows[j], 0, 3)]
        for i in range(8):
            z[:, np.clip(rows[i], 0, 7)] += x[min(i, 2)]
        for i in range(8):
            z[np.clip(rows[i], 0, 3), np.clip(rows[i] + np.int64(i), 0, 7)] = x[0, 0]
    empty = {"y": np.zeros_like(y), "z": np.zeros_like(z)}
    for number, array in enumerate(evaluate(kernel, {"x": x, "rows": rows, **empty})):
        np.testing.assert_array_equal(array, (y, z)[number % 2])


REGRESSIONS = {
    "one vector read at two strides": task(
        "vector v in 0..4 { y[v] = add(add(x[v], x[2*v]), x[0]) }",
        "vector w in 0..4 { y[w + 4] = add(x[7 - w], x[w]) }",
    ),
    "a local in an unrolled loop": task(
        "for i in 0..2 { unroll u in 0..4 { local a: f32[2]",
        "a[0] = x[u + 4] a[1] = x[u] y[4*i + u] = a[i] } }",
    ),
    "a large local in an unrolled loop": task(
        "for i in 0..2 { unroll u in 0..4 { local a: f32[4096]",
        "a[0] = x[u + 4] a[1] = x[u] y[4*i + u] = a[i] } }",
    ),
    "locals of one name and two shapes": task(
        "for i in 0..2 { local a: f32[2] a[i] = x[i] y[i] = a[i] }",
        "for i in 0..3 { local a: f32[3] a[i] = x[i + 4] y[i + 4] = a[i] }",
    ),
    "locals of two shapes in turn, unrolled": task(
        "unroll u in 0..2 { for i in 0..2 { local a: f32[2] a[i] = x[2*u + i]",
        "y[2*u + i] = a[i] } for i in 0..2 { local a: f32[3] a[i + 1] = x[2*u + i + 4]",
        "y[2*u + i + 4] = a[i + 1] } }",
    ),
    "a square local read by columns": task(
        "for i in 0..2 { local a: f32[2, 2] unroll r in 0..2 { vector v in 0..2 {",
        "a[r, v] = x[4*i + 2*r + v] } } a[0, 1] = neg(x[i]) unroll c in 0..2 {",
        "vector v in 0..2 { y[4*i + 2*c + v] = a[v, c] } } }",
    ),
    "part of a square local, changed between reads": task(
        "local a: f32[4, 4] unroll r in 0..3 { vector v in 0..4 { a[r, v] = x[v + r] } }",
        "vector v in 0..3 { y[v] = a[v, 2] } a[1, 2] = x[7]",
        "vector w in 0..2 { y[w + 3] = a[w, 2] }",
        "for c in 0..4 { vector z in 0..3 { y[z + 5] = add(a[z, c], a[z, 3]) } }",
    ),
    "a square local of another shape": task(
        "unroll u in 0..2 { local s: f32[2, 2] vector v in 0..2 { s[0, v] = x[v + u] }",
        "vector v in 0..2 { s[1, v] = x[v] } vector v in 0..2 { y[v + 4*u] = s[v, 1] } }",
        "local t: f32[1, 4] vector v in 0..4 { t[0, v] = x[v] } y[7] = t[0, 3]",
    ),
    "a name for one iteration, then for many": parse(
        "kernel k(in x: f32[8], out y: f32[8]) { parallel i in 3..4 { y[i] = x[i] }"
        " parallel i in 4..8 { y[i] = x[i - 4] } }"
    ),
    "nests with equally many tasks that share names": parse(
        "kernel k(in x: f32[8], out y: f32[8]) {"
        " parallel i in 0..2 { parallel j in 0..1 { local a: f32[2] a[1] = x[i] y[i] = a[1] } }"
        " parallel j in 1..2 { parallel i in 2..4 { local a: f32[1] a[0] = x[i + j] y[i] = a[0] } }"
        " parallel i in 4..6 { for j in 0..2 { y[i + 2*j] = x[i - j] } } }"
    ),
    "a nest without tasks, after others": parse(
        "kernel k(in x: f32[8], out y: f32[8]) {"
        " parallel i in 0..8 { y[i] = x[i] } parallel i in 0..4 { } }"
    ),
    "vectors of one name and two widths": task(
        "vector v in 0..3 { y[v] = x[v] } vector v in 0..8 { y[v] = x[v] }"
    ),
    "a vector that does not start at 0": task("vector v in 3..8 { y[v] = x[v - 3] }"),
    "a load before and after a guard": task(
        "for i in 0..4 { if 1 <= i < 3 { y[i] = x[i] } y[i + 4] = x[i] }"
    ),
    "a parameter read back": task(
        "for i in 0..8 { y[i] = x[i] } for i in 1..8 { y[i] = add(y[i], y[i - 1]) }"
    ),
}


@pytest.mark.parametrize("kernel", REGRESSIONS.values(), ids=REGRESSIONS)
def test_names_and_subscripts_that_invite_confusion(kernel: Kernel) -> None:
    x = np.array([3, -1, 4, 1, -5, 9, 2, 6], np.float32)
    first, *others = evaluate(kernel, {"x": x, "y": np.zeros(8, np.float32)})
    for other in others:
        np.testing.assert_array_equal(other, first)


# ---------------------------------------------------------------- random kernels


class Drawn:
    """Draws one kernel: nests of loops around stores, every subscript in bounds by construction."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.k = draw, KernelBuilder("random")
        self.dtype = draw(st.sampled_from(["f32", "f64"]))
        self.x = self.k.read("x", self.dtype, (draw(st.integers(4, 40)),))
        self.places = self.k.read("places", "i64", (draw(st.integers(4, 40)),))

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def kernel(self) -> Kernel:
        for nest in range(self.number(1, 3)):
            self.nest(nest)
        return self.k.build()

    def nest(self, number: int) -> None:
        """A perfect nest, the kinds in their legal order, that stores to a buffer of its own."""
        kinds: list[LoopKind] = ["parallel"] * self.number(1, 2)
        kinds += [self.draw(st.sampled_from(["for", "unroll"])) for _ in range(self.number(0, 2))]
        kinds += ["vector"] * self.number(0, 1)
        starts = [self.number(-2, 3) for _ in kinds]
        ranges = [range(start, start + self.number(1, 5)) for start in starts]
        shape = tuple(self.number(1, 2) * len(r) for r in ranges)
        y = self.k.write(f"y{number}", self.dtype, shape)
        self.enter(kinds, ranges, [], y)

    def enter(
        self, kinds: list[LoopKind], ranges: list[range], point: list[Affine], y: Buffer
    ) -> None:
        """The loops from here inwards, around one store."""
        if kinds:
            guarded = kinds[0] != "parallel" and self.draw(st.booleans())
            guard = self.guard(point) if guarded else nullcontext()
            with guard, self.k.loop("i", ranges[0], kinds[0]) as i:
                self.enter(kinds[1:], ranges[1:], [*point, i - ranges[0].start], y)
            return
        target = y[tuple(self.stepped(i, n) for i, n in zip(point, y.shape, strict=True))]
        self.k.store(target, self.expression(point, 2))

    def guard(self, point: list[Affine]) -> AbstractContextManager[None]:
        low = self.number(-3, 3)
        return self.k.guard(self.mixed(point), range(low, low + self.number(1, 6)))

    def mixed(self, point: list[Affine]) -> Affine:
        """A random combination of the variables."""
        return sum((i * self.number(-2, 2) for i in point), Affine.of(0))

    def stepped(self, index: Affine, extent: int) -> Affine:
        """The index times a step and plus an offset that keep it in bounds and one to one."""
        low, high = index.interval(self.k._ranges)
        step = self.number(1, max(1, (extent - 1) // max(high, 1)))
        backwards = self.draw(st.booleans())
        moved = (high - index) * step if backwards else index * step
        return moved + self.number(0, extent - 1 - (high - low) * step)

    def expression(self, point: list[Affine], depth: int) -> Expr:
        choice = self.number(0, 8) if depth else self.number(0, 2)
        if choice == 0:
            return self.k.constant(self.number(-3, 3), self.dtype)
        if choice == 1:
            return Call(self.dtype, (Position(sum(point, Affine.of(self.number(-2, 2)))),))
        if choice == 2:
            return self.load(point)
        a, b, c = (self.expression(point, depth - 1) for _ in range(3))
        makers = [a + b, a - b, a * b, fma(a, b, c), maximum(a, b),
                  select(call("lt", a, b), c, call("neg", a))]  # fmt: skip
        return makers[choice - 3]

    def load(self, point: list[Affine]) -> Load:
        choice = self.number(0, 5)
        if choice == 0:
            return self.x[Clamped(Position(self.mixed(point)))]
        if choice == 1:
            return self.x[Clamped(self.element(self.places, point))]
        return self.element(self.x, point)

    def element(self, buffer: Buffer, point: list[Affine]) -> Load:
        index = self.mixed(point)
        low, high = index.interval(self.k._ranges)
        (extent,) = buffer.shape
        if high - low >= extent:
            return buffer[self.number(0, extent - 1)]
        return buffer[index - low + self.number(0, extent - 1 - (high - low))]


@st.composite
def kernels(draw: st.DrawFn) -> Kernel:
    return Drawn(draw).kernel()


@settings(max_examples=120, deadline=None)
@given(kernels(), st.integers(0, 2**32 - 1))
def test_random_kernels_mean_the_same_to_both_readers(kernel: Kernel, seed: int) -> None:
    """On small whole numbers, where every multiply-add is exact."""
    assert parse(to_text(kernel)) == kernel
    rng = np.random.default_rng(seed)
    arrays = {p.name: rng.integers(-3, 4, p.shape).astype(NUMPY[p.dtype]) for p in kernel.params}
    results = list(evaluate(kernel, arrays))
    outputs = sum(param.writable for param in kernel.params)
    for number, array in enumerate(results):
        np.testing.assert_array_equal(array, results[number % outputs])


def test_the_interpreter_checks_its_buffers() -> None:
    kernel = parse("kernel k(out y: f32[2]) { parallel i in 0..2 { y[i] = 0:f32 } }")
    for wrong in (np.zeros(3, np.float32), np.zeros(2)):
        with pytest.raises(ValueError, match="declared"):
            interpret(kernel, [wrong])


def test_locals_start_undefined() -> None:
    kernel = task("local a: f32[1]", "y[0] = a[0]")
    y = np.zeros(8, np.float32)
    interpret(kernel, [np.zeros(8, np.float32), y])
    assert np.isnan(y[0])
