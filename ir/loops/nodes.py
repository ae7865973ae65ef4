"""The kernel language: loops over buffers, with static bounds and subscripts that keep to them.

    kernel  ::= "kernel" NAME "(" param ("," param)* ")" "{" stmt* "}"
    param   ::= ("in" | "out") NAME ":" TYPE "[" INT,* "]"
    stmt    ::= KIND NAME "in" INT ".." INT "{" stmt* "}"             a loop
              | "if" INT "<=" index "<" INT "{" stmt* "}"             a guard
              | "local" NAME ":" TYPE "[" INT,* "]"                   registers or stack
              | NAME "[" subscript,* "]" "=" expr                     a store
              | "prefetch" NAME "[" index,* "]"                       a hint
    KIND    ::= "parallel" | "for" | "unroll" | "vector"
    expr    ::= NUMBER ":" TYPE | NAME "[" subscript,* "]" | FUNCTION "(" expr,* ")"
              | "#" "(" index ")"
    subscript ::= index | "clamp" "(" expr ")"
    index   ::= an affine sum: 2*i + j - 1
    TYPE    ::= "f32" | "f64" | "i64"      ("bool" is the type of a comparison, never of a buffer)

All loop kinds mean the same: run the body for each value, in order. The kind tells the code
generator how: ``parallel`` loops stand outermost, perfectly nested, and their iterations are
independent tasks; ``unroll`` is expanded; ``vector`` becomes one SIMD operation per statement, so
its lanes must store to different elements. A kernel is a sequence of such nests, independent of
each other, and its tasks are those of all its nests, in any order.

``#(index)`` is the value of an index as ``i64``. A subscript ``clamp(expr)`` is computed: an
``i64``, and where that lies beyond the axis, its nearest element. A parameter marked ``out`` may
be read too. ``prefetch`` says that an element will be read soon, and means nothing: it may lie
beyond the buffer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Scalar = Literal["f32", "f64", "i64", "bool"]
LoopKind = Literal["parallel", "for", "unroll", "vector"]


@dataclass(frozen=True)
class Affine:
    """``sum(coefficient * variable) + constant``, canonical: sorted, no zero coefficients."""

    terms: tuple[tuple[str, int], ...] = ()
    constant: int = 0

    @staticmethod
    def of(value: Affine | int) -> Affine:
        return value if isinstance(value, Affine) else Affine((), int(value))

    @staticmethod
    def variable(name: str) -> Affine:
        return Affine(((name, 1),), 0)

    @staticmethod
    def total(terms: Iterable[tuple[str, int]], constant: int) -> Affine:
        sums: dict[str, int] = {}
        for name, factor in terms:
            sums[name] = sums.get(name, 0) + factor
        return Affine(tuple(sorted((n, f) for n, f in sums.items() if f)), constant)

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            return Affine(self.terms, self.constant + other) if other else self
        if not (self.terms and other.terms):
            return Affine(self.terms or other.terms, self.constant + other.constant)
        return Affine.total(self.terms + other.terms, self.constant + other.constant)

    __radd__ = __add__

    def __neg__(self) -> Affine:
        return self * -1

    def __sub__(self, other: Affine | int) -> Affine:
        return self + (-other)

    def __rsub__(self, other: int) -> Affine:
        return -self + other

    def __mul__(self, factor: int) -> Affine:
        if factor == 0:
            return Affine()
        return Affine(tuple((n, f * factor) for n, f in self.terms), self.constant * factor)

    __rmul__ = __mul__

    def coefficient(self, name: str) -> int:
        return dict(self.terms).get(name, 0)

    def interval(self, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
        """Smallest and largest value when each variable lies in its inclusive range."""
        low = high = self.constant
        for name, factor in self.terms:
            ends = (factor * ranges[name][0], factor * ranges[name][1])
            low, high = low + min(ends), high + max(ends)
        return low, high

    def __str__(self) -> str:
        text = ""
        for name, factor in self.terms:
            sign = " - " if factor < 0 else " + " if text else ""
            text += sign + (name if abs(factor) == 1 else f"{abs(factor)}*{name}")
        if not text:
            return str(self.constant)
        if self.constant:
            text += f" {'-' if self.constant < 0 else '+'} {abs(self.constant)}"
        return text.strip()


Index = Affine | int


@dataclass(frozen=True)
class Clamped:
    """A computed subscript: the value of an ``i64`` expression, moved to the nearest element."""

    value: Expr

    def coefficient(self, name: str) -> int:
        """How it depends on a loop variable: in no way that is known."""
        return 0


Subscript = Affine | Clamped


class Expr:
    """A scalar value (one per lane inside a vector loop); operators build ``Call`` nodes."""

    def __add__(self, other: Expr) -> Call:
        return Call("add", (self, other))

    def __sub__(self, other: Expr) -> Call:
        return Call("sub", (self, other))

    def __mul__(self, other: Expr) -> Call:
        return Call("mul", (self, other))

    def __truediv__(self, other: Expr) -> Call:
        return Call("div", (self, other))


@dataclass(frozen=True)
class Const(Expr):
    value: float
    dtype: Scalar


@dataclass(frozen=True)
class Load(Expr):
    """``buffer[index]``; as the target of a store, the element written."""

    buffer: str
    index: tuple[Subscript, ...]


@dataclass(frozen=True)
class Position(Expr):
    """The value of an index, as ``i64``."""

    index: Affine


@dataclass(frozen=True)
class Call(Expr):
    """A function of ``FUNCTIONS`` applied to its arguments."""

    function: str
    args: tuple[Expr, ...]


@dataclass(frozen=True)
class Store:
    target: Load
    value: Expr


@dataclass(frozen=True)
class Prefetch:
    """An element that will be read soon, with its neighbours: fetch them into the caches."""

    place: Load


@dataclass(frozen=True)
class Local:
    """A zero-cost array in registers or on the stack; its contents start undefined."""

    name: str
    dtype: Scalar
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Guard:
    """Run the body where ``low <= index < high``; inside, bounds checking may rely on it."""

    index: Affine
    low: int
    high: int
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Loop:
    """Run the body for ``variable`` in ``range(start, stop)``."""

    kind: LoopKind
    variable: str
    start: int
    stop: int
    body: tuple[Stmt, ...]

    @property
    def extent(self) -> int:
        return self.stop - self.start


Stmt = Store | Prefetch | Local | Guard | Loop


@dataclass(frozen=True)
class Param:
    """A buffer in memory: row-major, contiguous, aligned to its element only."""

    name: str
    dtype: Scalar
    shape: tuple[int, ...]
    writable: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Kernel:
    """A named sequence of independent nests over its parameters."""

    name: str
    params: tuple[Param, ...]
    body: tuple[Stmt, ...]
    tasks: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", sum(task_count(nest) for nest in self.body))


def task_count(nest: Stmt) -> int:
    """Number of independent iterations: the product of the leading parallel loops' extents."""
    if isinstance(nest, Loop) and nest.kind == "parallel":
        return nest.extent * task_count(nest.body[0]) if nest.body else 0
    return 1


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    result = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        result[axis] = result[axis + 1] * shape[axis + 1]
    return tuple(result)


def flat_index(index: tuple[Subscript, ...], shape: tuple[int, ...]) -> Affine:
    """The element offset of a subscript in a row-major buffer, where computed ones are 0."""
    terms: list[tuple[str, int]] = []
    constant = 0
    for position, stride in zip(index, strides(shape), strict=True):
        if isinstance(position, Affine):
            terms += [(name, factor * stride) for name, factor in position.terms]
            constant += position.constant * stride
    return Affine.total(terms, constant)
