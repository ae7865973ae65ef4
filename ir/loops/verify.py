"""Check a kernel: names, types, and that every access is in bounds for every iteration.

Bounds are proved by interval arithmetic over the static loop ranges; a guard adds the interval
of its own index expression; a computed subscript keeps to its axis by definition. What this
accepts cannot read or write outside its buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from ir.errors import Error
from ir.loops.functions import FUNCTIONS
from ir.loops.nodes import (
    Affine,
    Call,
    Clamped,
    Const,
    Expr,
    Guard,
    Kernel,
    Load,
    Local,
    Loop,
    Param,
    Position,
    Prefetch,
    Scalar,
    Stmt,
    Store,
    Subscript,
)


class KernelError(Error):
    """A kernel is ill-formed: the message names the kernel, the statement and the reason."""


@dataclass
class _Scope:
    buffers: dict[str, Param | Local]
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    known: dict[Affine, tuple[int, int]] = field(default_factory=dict)  # from guards
    vector: str | None = None

    def inner(self) -> _Scope:
        return _Scope(dict(self.buffers), dict(self.ranges), dict(self.known), self.vector)

    def interval(self, index: Affine) -> tuple[int, int]:
        low, high = index.interval(self.ranges)
        for guarded, (glow, ghigh) in self.known.items():
            factor = _ratio(index, guarded)
            below, above = (index - guarded * factor).interval(self.ranges)
            low, high = max(low, factor * glow + below), min(high, factor * ghigh + above)
        return low, high


def _ratio(index: Affine, guarded: Affine) -> int:
    """How often a guarded expression is contained in an index: a positive factor, 1 by default."""
    for name, coefficient in guarded.terms:
        quotient, rest = divmod(index.coefficient(name), coefficient)
        if quotient > 0 and not rest:
            return quotient
    return 1


def verify(kernel: Kernel) -> None:
    """Raise ``KernelError`` unless the kernel is well-typed and every access is in bounds."""
    names = [param.name for param in kernel.params]
    if len(set(names)) != len(names):
        raise KernelError(f"kernel {kernel.name}: parameter names repeat: {names}")
    scope = _Scope({param.name: param for param in kernel.params})
    if not all(isinstance(nest, Loop) for nest in kernel.body):
        raise KernelError(f"kernel {kernel.name}: its nests are tasks, so each is a loop")
    try:
        _check_block(kernel.body, scope, parallel=True)
    except KernelError as error:
        raise KernelError(f"kernel {kernel.name}: {error}") from None


def _check_block(body: tuple[Stmt, ...], scope: _Scope, parallel: bool) -> None:
    for stmt in body:
        if isinstance(stmt, Store):
            _check_store(stmt, scope)
        elif isinstance(stmt, Prefetch):
            _check_prefetch(stmt.place, scope)
        elif isinstance(stmt, Local):
            if stmt.name in scope.buffers or stmt.dtype == "bool" or min(stmt.shape, default=1) < 1:
                raise KernelError(f"local {stmt.name}: name taken, bad type or empty shape")
            scope.buffers[stmt.name] = stmt
        elif isinstance(stmt, Guard):
            inner = scope.inner()
            _check_variables(stmt.index, scope)
            if scope.vector and stmt.index.coefficient(scope.vector):
                raise KernelError(f"guard on {stmt.index}: lanes of a vector loop cannot diverge")
            inner.known[stmt.index] = (stmt.low, stmt.high - 1)
            _check_block(stmt.body, inner, parallel=False)
        else:
            _check_loop(stmt, scope, parallel)


def _check_loop(loop: Loop, scope: _Scope, parallel: bool) -> None:
    if loop.variable in scope.ranges or loop.variable in scope.buffers:
        raise KernelError(f"loop {loop.variable}: the name is taken")
    if loop.extent < 1:
        raise KernelError(f"loop {loop.variable}: empty range {loop.start}..{loop.stop}")
    if scope.vector:
        raise KernelError(f"loop {loop.variable}: a vector loop contains no other loop")
    if loop.kind == "parallel":
        perfect = len(loop.body) == 1 or not any(
            isinstance(s, Loop) and s.kind == "parallel" for s in loop.body
        )
        if not parallel or not perfect:
            raise KernelError(f"loop {loop.variable}: parallel loops stand outermost, one in one")
    inner = scope.inner()
    inner.ranges[loop.variable] = (loop.start, loop.stop - 1)
    inner.vector = loop.variable if loop.kind == "vector" else None
    _check_block(loop.body, inner, parallel=loop.kind == "parallel")
    if loop.kind == "vector":
        _check_lanes(loop)


def _check_lanes(loop: Loop) -> None:
    """One lane's stores are not another lane's loads or stores: then their order is no matter."""
    stored: dict[str, set[tuple[Subscript, ...]]] = {}
    accessed: dict[str, set[tuple[Subscript, ...]]] = {}
    for access, stores in _accesses(loop.body):
        accessed.setdefault(access.buffer, set()).add(access.index)
        if stores:
            stored.setdefault(access.buffer, set()).add(access.index)
    for buffer, targets in stored.items():
        if any(_keeps_apart(axis, loop) for axis in zip(*accessed[buffer], strict=True)):
            continue
        for pair in product(targets, accessed[buffer]):
            if not any(_keeps_apart(axis, loop) for axis in zip(*pair, strict=True)):
                raise KernelError(
                    f"loop {loop.variable}: one lane stores to {buffer} what another may access; "
                    f"use one subscript for both"
                )


def _keeps_apart(subscripts: tuple[Subscript, ...], loop: Loop) -> bool:
    """Whether accesses with these subscripts on one axis meet in the same lane only."""
    return len(set(subscripts)) == 1 and subscripts[0].coefficient(loop.variable) != 0


def _accesses(body: tuple[Stmt, ...]) -> Iterator[tuple[Load, bool]]:
    """The elements that statements access, and whether they store to them."""
    for stmt in body:
        if isinstance(stmt, Store):
            yield stmt.target, True
            values = (stmt.value, *_computed(stmt.target))
            yield from ((load, False) for value in values for load in _loads(value))
        elif isinstance(stmt, Loop | Guard):
            yield from _accesses(stmt.body)


def _loads(expr: Expr) -> Iterator[Load]:
    if isinstance(expr, Load):
        yield expr
        for value in _computed(expr):
            yield from _loads(value)
    for arg in expr.args if isinstance(expr, Call) else ():
        yield from _loads(arg)


def _computed(access: Load) -> Iterator[Expr]:
    """The expressions in the subscripts of an access."""
    return (index.value for index in access.index if isinstance(index, Clamped))


def _check_store(store: Store, scope: _Scope) -> None:
    target = store.target
    buffer = _check_access(target, scope)
    if isinstance(buffer, Param) and not buffer.writable:
        raise KernelError(f"store to {target.buffer}: the parameter is read-only")
    if scope.vector and not any(i.coefficient(scope.vector) for i in target.index):
        raise KernelError(f"store to {target.buffer}: the lanes of {scope.vector} would collide")
    dtype = type_of(store.value, scope)
    if dtype != buffer.dtype:
        raise KernelError(f"store to {target.buffer}: {dtype} into {buffer.dtype}")


def _check_prefetch(place: Load, scope: _Scope) -> None:
    _buffer(place, scope)
    for index in place.index:
        if isinstance(index, Clamped):
            raise KernelError(f"prefetch of {place.buffer}: a subscript is computed")
        _check_variables(index, scope)


def _buffer(access: Load, scope: _Scope) -> Param | Local:
    """What is subscripted, by as many subscripts as it has axes."""
    buffer = scope.buffers.get(access.buffer)
    if buffer is None:
        raise KernelError(f"unknown buffer {access.buffer}")
    if len(access.index) != len(buffer.shape):
        raise KernelError(
            f"{access.buffer}: {len(access.index)} subscripts for shape {buffer.shape}"
        )
    return buffer


def _check_access(access: Load, scope: _Scope) -> Param | Local:
    buffer = _buffer(access, scope)
    for axis, (index, extent) in enumerate(zip(access.index, buffer.shape, strict=True)):
        if isinstance(index, Clamped):
            dtype = type_of(index.value, scope)
            if dtype != "i64" or extent < 1:
                reason = f"of extent {extent} subscripted by a computed {dtype}"
                raise KernelError(f"{access.buffer}: axis {axis} {reason}")
            continue
        _check_variables(index, scope)
        low, high = scope.interval(index)
        if low < 0 or high >= extent:
            raise KernelError(
                f"{access.buffer}: axis {axis} of extent {extent} subscripted by {index}, "
                f"which reaches {low}..{high}"
            )
    return buffer


def _check_variables(index: Affine, scope: _Scope) -> None:
    for name, _ in index.terms:
        if name not in scope.ranges:
            raise KernelError(f"unknown loop variable {name} in {index}")


def type_of(expr: Expr, scope: _Scope) -> Scalar:
    """The type of an expression; raises ``KernelError`` where it is ill-typed."""
    if isinstance(expr, Const):
        return expr.dtype
    if isinstance(expr, Load):
        return _check_access(expr, scope).dtype
    if isinstance(expr, Position):
        _check_variables(expr.index, scope)
        return "i64"
    if not isinstance(expr, Call) or expr.function not in FUNCTIONS:
        raise KernelError(f"unknown expression {expr!r}")
    function = FUNCTIONS[expr.function]
    types = tuple(type_of(arg, scope) for arg in expr.args)
    result = function.typing(types) if len(types) == function.arity else None
    if result is None:
        raise KernelError(f"{expr.function}({', '.join(types)}) is not defined")
    return result
