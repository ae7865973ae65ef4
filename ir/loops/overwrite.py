"""A kernel that writes its result over an operand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ir.loops.nodes import (
    Affine,
    Call,
    Clamped,
    Expr,
    Kernel,
    Load,
    Local,
    Prefetch,
    Stmt,
    Store,
    Subscript,
)


def overwriting(kernel: Kernel, lies_in: Mapping[str, str]) -> Kernel:
    """The kernel with the operands ``lies_in`` found in the buffers of the results that they map
    to, of the same type and shape; it has no parameter for them.

    It computes the same where each element of such a result is stored once, from that element of
    the operand and from no other.
    """
    params = tuple(param for param in kernel.params if param.name not in lies_in)
    return Kernel(kernel.name, params, _block(kernel.body, lies_in))


def _block(body: tuple[Stmt, ...], names: Mapping[str, str]) -> tuple[Stmt, ...]:
    return tuple(_stmt(stmt, names) for stmt in body)


def _stmt(stmt: Stmt, names: Mapping[str, str]) -> Stmt:
    if isinstance(stmt, Store):
        return Store(_load(stmt.target, names), _expr(stmt.value, names))
    if isinstance(stmt, Prefetch):
        return Prefetch(_load(stmt.place, names))
    if isinstance(stmt, Local):
        return stmt
    return replace(stmt, body=_block(stmt.body, names))


def _expr(expr: Expr, names: Mapping[str, str]) -> Expr:
    if isinstance(expr, Load):
        return _load(expr, names)
    if isinstance(expr, Call):
        return Call(expr.function, tuple(_expr(arg, names) for arg in expr.args))
    return expr


def _load(load: Load, names: Mapping[str, str]) -> Load:
    index = tuple(_subscript(each, names) for each in load.index)
    return Load(names.get(load.buffer, load.buffer), index)


def _subscript(index: Subscript, names: Mapping[str, str]) -> Subscript:
    return index if isinstance(index, Affine) else Clamped(_expr(index.value, names))
