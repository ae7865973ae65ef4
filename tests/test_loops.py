"""The kernel language: what the verifier refuses, the text form, the builder."""

from __future__ import annotations

import numpy as np
import pytest

from convc.backend.target import available
from ir.loops import Affine, Kernel, KernelBuilder, KernelError, parse, to_text, verify
from ir.loops.nodes import Call, Const, Param, Store, flat_index, strides, task_count
from tests.examples import FLOATS, examples, graph_of, program_of

GOLDEN = """\
kernel golden(in x: f32[4, 10], out y: f32[4, 8], in labels: i64[4]) {
  parallel n in 0..4 {
    local acc: f32[8]
    vector v in 0..8 {
      acc[v] = 0:f32
    }
    for m in -1..2 {
      if 0 <= m + n < 4 {
        vector v in 0..8 {
          acc[v] = fma(x[m + n, v + 2], -0.5:f32, acc[v])
          prefetch x[m + n + 4, v]
        }
      }
    }
    unroll v in 0..8 {
      y[n, v] = select(eq(labels[n], #(2*n - v)), inf:f32, x[clamp(labels[n]), v])
    }
  }
}"""


def lines(*body: str, params: str = "in x: f32[8], out y: f32[8]") -> str:
    """A kernel with one task around these lines."""
    return "\n".join([f"kernel k({params}) {{", "parallel t in 0..1 {", *body, "}", "}"])


# ---------------------------------------------------------------- what is refused


def test_a_prefetch_may_lie_beyond_its_buffer_but_must_be_a_place_in_it() -> None:
    assert parse(lines("for i in 0..8 { y[i] = x[i] prefetch x[100*i - 7] }")).tasks == 1
    for place, reason in {
        "z[0]": "unknown buffer z",
        "x[0, 0]": r"2 subscripts for shape \(8,\)",
        "x[q]": "unknown loop variable q",
        "x[clamp(#(t))]": "a subscript is computed",
    }.items():
        with pytest.raises(KernelError, match=reason):
            parse(lines(f"prefetch {place}"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("for i in 0..9 { y[i] = 0:f32 }", r"of extent 8 subscripted by i, which reaches 0\.\.8"),
        ("for i in -1..8 { y[i] = 0:f32 }", r"which reaches -1\.\.7"),
        ("for i in 0..8 { y[i] = x[i + 1] }", r"reaches 1\.\.8"),
        ("for i in 0..8 { y[7 - i] = x[i - 1] }", r"reaches -1\.\.6"),
        ("for i in 0..4 { for j in 0..3 { y[2*i + j] = 0:f32 } }", r"reaches 0\.\.8"),
        ("vector v in 0..8 { y[v] = x[2*v] }", r"reaches 0\.\.14"),
        ("y[8] = 0:f32", r"reaches 8\.\.8"),
        ("if 0 <= t < 1 { y[t - 1] = 0:f32 }", r"reaches -1\.\.-1"),
        ("for i in 0..9 { if 0 <= i < 9 { y[i] = 0:f32 } }", r"reaches 0\.\.8"),
        ("for i in 0..9 { if 0 <= 2*i < 17 { y[i] = 0:f32 } }", r"reaches 0\.\.8"),
        ("for i in 0..9 { for j in 0..2 { if 0 <= i < 8 { y[i + j] = 0:f32 } } }", r"0\.\.8"),
        ("for i in 0..9 { if 1 <= i < 9 { y[i] = 0:f32 } }", r"reaches 1\.\.8"),
        ("for i in 0..9 { if 0 <= i < 8 { local a: f32[1] } y[i] = 0:f32 }", r"reaches 0\.\.8"),
    ],
)
def test_access_out_of_bounds_by_one_is_refused(body: str, message: str) -> None:
    with pytest.raises(KernelError, match=f"kernel k: [xy]: axis 0 .*{message}"):
        parse(lines(body))


@pytest.mark.parametrize(
    "body",
    [
        "for i in -1..9 { if 0 <= i < 8 { y[i] = x[i] } }",
        "for i in 0..9 { if 0 <= i - 1 < 8 { y[i - 1] = x[i - 1] } }",
        "for i in 0..9 { if 1 <= i < 9 { y[i - 1] = 0:f32 } }",
        "for i in 0..6 { for j in 0..6 { if 2 <= i + j < 8 { y[i + j] = x[i + j - 2] } } }",
        "for i in 0..9 { for j in -1..2 { if 1 <= i < 7 { y[i + j] = 0:f32 } } }",
        "for i in 0..9 { if 0 <= 2*i < 8 { y[i] = 0:f32 } }",
        "for i in -3..12 { if -3 <= i < 8 { if 0 <= i + 2 < 10 { if 2 <= i + 2 < 99 {"
        " y[i] = 0:f32 } } } }",
    ],
)
def test_a_guard_proves_bounds_of_its_index_and_of_what_is_near_it(body: str) -> None:
    parse(lines(body))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y[0] = 1:f64", "store to y: f64 into f32"),
        ("y[0] = eq(x[0], x[1])", "bool into f32"),
        ("y[0] = #(t)", "i64 into f32"),
        ("y[0] = add(x[0], 1:f64)", r"add\(f32, f64\) is not defined"),
        ("y[0] = add(x[0])", r"add\(f32\) is not defined"),
        ("y[0] = exp(#(t))", r"exp\(i64\) is not defined"),
        ("y[0] = select(x[0], x[0], x[0])", r"select\(f32, f32, f32\) is not defined"),
        ("y[0] = f32(not(x[0]))", r"not\(f32\) is not defined"),
        ("y[0] = tan(x[0])", "unknown expression"),
        ("x[0] = 0:f32", "store to x: the parameter is read-only"),
        ("local a: bool[1]", "local a: name taken, bad type"),
        ("local a: f32[0]", "empty shape"),
        ("y[0] = x[clamp(x[0])]", "axis 0 of extent 8 subscripted by a computed f32"),
        ("y[clamp(z[0])] = x[0]", "unknown buffer z"),
        ("y[clamp(#(i))] = x[0]", "unknown loop variable i"),
    ],
)
def test_wrong_types_are_refused(body: str, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        parse(lines(body))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("z[0] = 0:f32", "unknown buffer z"),
        ("y[0] = z[0]", "unknown buffer z"),
        ("y[i] = 0:f32", "unknown loop variable i in i"),
        ("y[0] = f32(#(i))", "unknown loop variable i"),
        ("if 0 <= i < 8 { y[0] = 0:f32 }", "unknown loop variable i"),
        ("for i in 0..8 { y[i] = 0:f32 } y[i] = 0:f32", "unknown loop variable i"),
        ("if 0 <= t < 1 { local a: f32[1] } a[0] = 0:f32", "unknown buffer a"),
        ("y[0, 0] = 0:f32", r"y: 2 subscripts for shape \(8,\)"),
        ("for t in 0..8 { y[t] = 0:f32 }", "loop t: the name is taken"),
        ("for x in 0..8 { y[x] = 0:f32 }", "loop x: the name is taken"),
        ("local x: f32[8]", "local x: name taken"),
        ("for i in 3..3 { y[i] = 0:f32 }", r"loop i: empty range 3\.\.3"),
    ],
)
def test_unknown_and_taken_names_are_refused(body: str, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        parse(lines(body))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("vector v in 0..8 { y[0] = x[v] }", "store to y: the lanes of v would collide"),
        ("vector v in 0..2 { for i in 0..4 { y[4*v + i] = 0:f32 } }", "contains no other loop"),
        ("vector v in 0..2 { unroll i in 0..4 { y[4*v + i] = 0:f32 } }", "contains no other loop"),
        ("vector v in 0..8 { if 0 <= v < 4 { y[v] = 0:f32 } }", "lanes .* cannot diverge"),
        ("vector v in 0..7 { y[v + 1] = y[v] }", "one lane stores to y what another may access"),
        ("vector v in 0..8 { y[v] = add(y[v], y[0]) }", "one lane stores to y"),
        ("vector v in 0..8 { y[v] = x[v] y[7 - v] = x[v] }", "one lane stores to y"),
        ("vector v in 0..8 { y[clamp(#(v))] = x[v] }", "the lanes of v would collide"),
        ("vector v in 0..8 { y[v] = y[clamp(#(v))] }", "one lane stores to y"),
        ("vector v in 0..8 { y[v] = x[clamp(#(v))] y[clamp(#(t))] = x[v] }", "would collide"),
    ],
)
def test_lanes_that_would_meet_are_refused(body: str, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        parse(lines(body))


@pytest.mark.parametrize(
    "text",
    [
        lines("parallel i in 0..4 { y[i] = 0:f32 } parallel j in 0..4 { y[j] = 0:f32 }"),
        lines("for i in 0..4 { parallel j in 0..2 { y[2*i + j] = 0:f32 } }"),
        lines("if 0 <= t < 1 { parallel j in 0..2 { y[j] = 0:f32 } }"),
        lines("y[0] = 0:f32 parallel j in 0..2 { y[j] = 0:f32 }"),
    ],
)
def test_parallel_loops_stand_outermost_one_in_one(text: str) -> None:
    with pytest.raises(KernelError, match="parallel loops stand outermost"):
        parse(text)


def test_what_stands_outside_any_loop_is_refused() -> None:
    with pytest.raises(KernelError, match="each is a loop"):
        parse("kernel k(out y: f32[1]) { y[0] = 0:f32 }")


def test_parameters_have_names_of_their_own() -> None:
    twice = (Param("x", "f32", (1,), False), Param("x", "f32", (1,), True))
    with pytest.raises(KernelError, match="parameter names repeat"):
        verify(Kernel("k", twice, ()))


# ---------------------------------------------------------------- the text form


def same(first: Kernel, second: Kernel) -> bool:
    """Equal, where a NaN equals itself."""
    return to_text(first) == to_text(second) and ("nan:" in to_text(first) or first == second)


def test_the_golden_text() -> None:
    assert to_text(parse(GOLDEN)) == GOLDEN


def test_white_space_is_free() -> None:
    assert parse(" ".join(GOLDEN.split())) == parse(GOLDEN)


@pytest.mark.parametrize("target", available())
def test_the_kernels_of_all_examples_round_trip(target: str) -> None:
    for name, example in examples():
        for dtype in FLOATS:
            for step in program_of(graph_of(example, dtype), target).steps:
                assert same(parse(to_text(step.kernel)), step.kernel), name


@pytest.mark.parametrize("value", [0, -3, 2**62, 1.0, -0.0, 1e-5, 1e30, np.inf, -np.inf, np.nan])
def test_constants_round_trip(value: float) -> None:
    k = KernelBuilder("k")
    y = k.write("y", "i64" if isinstance(value, int) else "f64", (1,))
    with k.loop("t", 1, "parallel"):
        k.store(y[0], k.constant(value, y.dtype))
    again = parse(to_text(k.build()))
    (store,) = again.body[0].body
    assert same(again, k.build()) and repr(store.value.value) == repr(value)


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("kernel golden", "kernal golden"), 1, "expected 'kernel', found 'kernal'"),
        (("in x:", "inout x:"), 1, "expected 'in' or 'out', found 'inout'"),
        (("f32[4, 10]", "f16[4, 10]"), 1, "expected a type, found 'f16'"),
        (("4, 10]", "4, n]"), 1, "expected an integer, found 'n'"),
        (("parallel n in 0..4", "parallel n in 0.5..4"), 2, "expected an integer, found '0.5'"),
        (("for m in -1..2", "for m in -1,2"), 7, "expected '..', found ','"),
        (("0 <= m + n < 4", "m + n < 4"), 8, "expected an integer, found 'm'"),
        (("m + n, v + 2", "m + , v + 2"), 10, "expected an integer, found ','"),
        (("m + n, v + 2", "m - -2, v + 2"), 10, "expected a number or a name, found '-'"),
        (("-0.5:f32", "-0.5"), 10, "expected ':', found ','"),
        (("acc[v])", "acc)"), 10, "expected an expression, found 'acc'"),
        (("unroll v in", "unrolled v in"), 15, "expected a statement, found 'unrolled'"),
        (("inf:f32", "@"), 16, "unexpected character '@'"),
        (("  }\n}", "  }\n"), 19, "expected a statement, found the end"),
        (("  }\n}", "  }\n} }"), 19, "expected the end, found '}'"),
        (("eq(", "(" * 200), 16, "expected a name, found '('"),
        (("eq(", "eq(" * 200), 16, "expected at most 100 levels"),
    ],
)
def test_errors_have_a_line(change: tuple[str, str], line: int, message: str) -> None:
    assert change[0] in GOLDEN
    with pytest.raises(KernelError) as caught:
        parse(GOLDEN.replace(*change))
    assert str(caught.value).startswith(f"line {line}: {message}")


def test_every_prefix_is_refused_cleanly() -> None:
    for end in range(len(GOLDEN)):
        with pytest.raises(KernelError):
            parse(GOLDEN[:end])


# ---------------------------------------------------------------- affine subscripts, builder


def test_affine_subscripts_are_canonical() -> None:
    i, j = Affine.variable("i"), Affine.variable("j")
    assert i + j - i == j and i * 0 == Affine() and 3 - i == -(i - 3)
    assert (2 * i - j + 1).interval({"i": (0, 3), "j": (-1, 2)}) == (-1, 8)
    assert (str(-i + 3), str(Affine.of(-2)), str(2 * i - j)) == ("- i + 3", "-2", "2*i - j")
    assert flat_index((i, j + 1), (3, 5)) == 5 * i + j + 1 and strides((2, 3, 5)) == (15, 5, 1)


def test_the_builder_leaves_out_loops_and_guards_that_do_nothing() -> None:
    k = KernelBuilder("k")
    x, y = k.read("x", "f32", (4,)), k.write("x", "f32", (4,))
    with k.loop("i", 4, "parallel") as i, k.guard(i, 4), k.loop("j", 1):
        k.store(y[i], x[i])
    with k.loop("i", 4) as i, k.guard(i, range(5, 9)):
        k.store(y[i], x[i])
    with k.loop("i", 0, "parallel") as i:
        k.store(y[i], x[i])
    want = "kernel k(in x: f32[4], out x_1: f32[4]) { parallel i in 0..4 { x_1[i] = x[i] } }"
    assert " ".join(to_text(k.build()).split()) == want


def test_tasks_are_counted_over_all_nests() -> None:
    kernel = parse("kernel k(out y: f32[6]) { parallel i in 0..2 { parallel j in 0..3 {"
                   " y[3*i + j] = 0:f32 } } for i in 0..6 { y[i] = 0:f32 } }")  # fmt: skip
    assert kernel.tasks == 7 and task_count(kernel.body[0]) == 6


def test_a_constant_is_typed_by_its_suffix() -> None:
    kernel = parse(lines("y[0] = f32(0.1:f64)"))
    (store,) = kernel.body[0].body
    assert isinstance(store, Store) and store.value == Call("f32", (Const(0.1, "f64"),))
