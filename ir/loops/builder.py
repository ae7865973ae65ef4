"""Build kernels: buffers are subscripted, loops are context managers.

k = KernelBuilder("relu")
x, y = k.read("x", "f32", (n,)), k.write("y", "f32", (n,))
with k.loop("i", n, "parallel") as i:
    k.store(y[i], maximum(x[i], k.constant(0, "f32")))
kernel = k.build()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ir.loops.nodes import (
    Affine,
    Call,
    Clamped,
    Const,
    Expr,
    Guard,
    Index,
    Kernel,
    Load,
    Local,
    Loop,
    LoopKind,
    Param,
    Prefetch,
    Scalar,
    Stmt,
    Store,
)


@dataclass(frozen=True)
class Buffer:
    """A named buffer; subscripting it gives the element, to read or to store to."""

    name: str
    dtype: Scalar
    shape: tuple[int, ...]

    def __getitem__(self, index: Index | Clamped | tuple[Index | Clamped, ...]) -> Load:
        given = index if isinstance(index, tuple) else (index,)
        subscripts = [i if isinstance(i, Affine | Clamped) else Affine.of(i) for i in given]
        return Load(self.name, tuple(subscripts))


class KernelBuilder:
    """Collects statements. Who runs or compiles the kernel verifies it (types, bounds) before."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._params: list[Param] = []
        self._blocks: list[list[Stmt]] = [[]]
        self._names: set[str] = set()
        self._ranges: dict[str, tuple[int, int]] = {}

    def read(self, name: str, dtype: Scalar, shape: tuple[int, ...]) -> Buffer:
        return self._param(name, dtype, shape, writable=False)

    def write(self, name: str, dtype: Scalar, shape: tuple[int, ...]) -> Buffer:
        return self._param(name, dtype, shape, writable=True)

    def _param(self, name: str, dtype: Scalar, shape: tuple[int, ...], writable: bool) -> Buffer:
        unique = self._fresh(name)
        self._params.append(Param(unique, dtype, tuple(shape), writable))
        return Buffer(unique, dtype, tuple(shape))

    def local(self, name: str, dtype: Scalar, shape: tuple[int, ...]) -> Buffer:
        unique = self._fresh(name)
        self._blocks[-1].append(Local(unique, dtype, tuple(shape)))
        return Buffer(unique, dtype, tuple(shape))

    @property
    def outermost(self) -> bool:
        """Whether the next statement stands in no loop: it must then be a task."""
        return len(self._blocks) == 1

    @staticmethod
    def constant(value: float, dtype: Scalar) -> Const:
        return Const(value, dtype)

    def store(self, target: Load, value: Expr) -> None:
        self._blocks[-1].append(Store(target, value))

    def prefetch(self, place: Load) -> None:
        """Say that an element will be read soon; one beyond its buffer does no harm."""
        self._blocks[-1].append(Prefetch(place))

    @contextmanager
    def loop(self, name: str, extent: int | range, kind: LoopKind = "for") -> Iterator[Affine]:
        """A loop over ``range(extent)``; one that runs once leaves no loop, unless it is a task."""
        bounds = extent if isinstance(extent, range) else range(extent)
        if len(bounds) == 1 and kind != "parallel":
            yield Affine.of(bounds.start)
            return
        variable = self._fresh(name)
        self._ranges[variable] = (bounds.start, bounds.stop - 1)
        self._blocks.append([])
        yield Affine.variable(variable)
        body = tuple(self._blocks.pop())
        self._blocks[-1].append(Loop(kind, variable, bounds.start, bounds.stop, body))

    @contextmanager
    def guard(self, index: Index, extent: int | range) -> Iterator[None]:
        """Run the body where ``index`` lies in the range; vanishes where that always holds."""
        bounds = extent if isinstance(extent, range) else range(extent)
        position = Affine.of(index)
        low, high = position.interval(self._ranges)
        if bounds.start <= low and high < bounds.stop:
            yield
            return
        self._blocks.append([])
        yield
        body = tuple(self._blocks.pop())
        if low < bounds.stop and bounds.start <= high:  # else it never holds: drop the body
            self._blocks[-1].append(Guard(position, bounds.start, bounds.stop, body))

    def build(self) -> Kernel:
        """The kernel. Empty loops (an extent of 0) are dropped."""
        return Kernel(self.name, tuple(self._params), _without_empty_loops(self._blocks[0]))

    def _fresh(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._names:
            unique, count = f"{name}_{count}", count + 1
        self._names.add(unique)
        return unique


def _without_empty_loops(body: list[Stmt] | tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    kept: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, Loop):
            inner = _without_empty_loops(stmt.body)
            if stmt.extent > 0 and inner:
                kept.append(Loop(stmt.kind, stmt.variable, stmt.start, stmt.stop, inner))
        elif isinstance(stmt, Guard):
            inner = _without_empty_loops(stmt.body)
            if inner:
                kept.append(Guard(stmt.index, stmt.low, stmt.high, inner))
        else:
            kept.append(stmt)
    return tuple(kept)


def fma(a: Expr, b: Expr, c: Expr) -> Call:
    return Call("fma", (a, b, c))


def maximum(a: Expr, b: Expr) -> Call:
    """The larger; NaN if either is NaN."""
    return Call("max", (a, b))


def select(condition: Expr, yes: Expr, no: Expr) -> Call:
    return Call("select", (condition, yes, no))


def call(function: str, *args: Expr) -> Call:
    return Call(function, args)
