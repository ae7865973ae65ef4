"""Run a kernel in numpy: slow, and the very loops that the code generator gets.

A vector loop binds its variable to the array of its lanes, so that numpy's own indexing performs
the gathers and scatters; every other loop runs in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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
    Position,
    Prefetch,
    Stmt,
    Store,
)
from ir.loops.verify import verify

Env = dict[str, Any]
Action = Callable[[Env], None]
NUMPY: Mapping[str, npt.DTypeLike] = {"f32": np.float32, "f64": np.float64, "i64": np.int64}


def interpret(kernel: Kernel, buffers: Sequence[npt.NDArray[Any]], reverse: bool = False) -> None:
    """Run ``kernel`` on its buffers (arrays of the parameters' shapes), writing in place.

    With ``reverse`` the parallel iterations run backwards: a kernel whose tasks are truly
    independent gives the same result. Raises ``KernelError`` for one that is ill-formed.
    """
    verify(kernel)
    env: Env = {}
    for param, array in zip(kernel.params, buffers, strict=True):
        if array.shape != param.shape or array.dtype != NUMPY[param.dtype]:
            raise ValueError(f"{param.name}: {array.dtype}{array.shape}, declared {param}")
        env[param.name] = array
    nests = [_compile(stmt, reverse) for stmt in kernel.body]
    with np.errstate(all="ignore"):
        for nest in reversed(nests) if reverse else nests:
            nest(env)


def _compile(stmt: Stmt, reverse: bool) -> Action:
    """A statement as a closure over the environment of buffers and loop variables."""
    if isinstance(stmt, Store):
        return _store(stmt)
    if isinstance(stmt, Prefetch):
        return lambda env: None
    if isinstance(stmt, Local):
        return _local(stmt)
    body = [_compile(inner, reverse) for inner in stmt.body]
    return _guard(stmt, body) if isinstance(stmt, Guard) else _loop(stmt, body, reverse)


def _local(local: Local) -> Action:
    def run(env: Env) -> None:
        env[local.name] = np.full(local.shape, np.nan if local.dtype != "i64" else -(2**62))
        env[local.name] = env[local.name].astype(NUMPY[local.dtype])

    return run


def _guard(guard: Guard, body: list[Action]) -> Action:
    position = _index(guard.index)

    def run(env: Env) -> None:
        if guard.low <= position(env) < guard.high:
            for action in body:
                action(env)

    return run


def _loop(loop: Loop, body: list[Action], reverse: bool) -> Action:
    values: list[Any] = list(range(loop.start, loop.stop))
    if loop.kind == "vector":
        values = [np.arange(loop.start, loop.stop)]
    elif loop.kind == "parallel" and reverse:
        values.reverse()

    def run(env: Env) -> None:
        for value in values:
            env[loop.variable] = value
            for action in body:
                action(env)

    return run


def _store(store: Store) -> Action:
    name, subscripts = store.target.buffer, _subscripts(store.target)
    value = _expression(store.value)

    def run(env: Env) -> None:
        env[name][tuple(s(env) for s in subscripts)] = value(env)

    return run


def _subscripts(access: Load) -> list[Callable[[Env], Any]]:
    return [
        _clamped(index, access.buffer, axis) if isinstance(index, Clamped) else _index(index)
        for axis, index in enumerate(access.index)
    ]


def _clamped(index: Clamped, buffer: str, axis: int) -> Callable[[Env], Any]:
    value = _expression(index.value)
    return lambda env: np.clip(value(env), 0, env[buffer].shape[axis] - 1)


def _index(index: Affine) -> Callable[[Env], Any]:
    terms, constant = index.terms, index.constant
    if len(terms) == 0:
        return lambda env: constant
    if len(terms) == 1:
        name, factor = terms[0]
        return lambda env: env[name] * factor + constant
    return lambda env: sum(env[name] * factor for name, factor in terms) + constant


def _expression(expr: Expr) -> Callable[[Env], Any]:
    if isinstance(expr, Const):
        constant = np.asarray(expr.value, NUMPY[expr.dtype])[()]
        return lambda env: constant
    if isinstance(expr, Load):
        name, subscripts = expr.buffer, _subscripts(expr)
        return lambda env: env[name][tuple(s(env) for s in subscripts)]
    if isinstance(expr, Call):
        function, args = FUNCTIONS[expr.function].evaluate, [_expression(a) for a in expr.args]
        return lambda env: function(*(arg(env) for arg in args))
    assert isinstance(expr, Position)
    position = _index(expr.index)
    return lambda env: np.int64(position(env))
