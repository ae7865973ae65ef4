"""Print a kernel in the notation of ``ir.loops.nodes`` (see its grammar)."""

from __future__ import annotations

from collections.abc import Iterator

from ir.loops.nodes import (
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
    Subscript,
)


def to_text(kernel: Kernel) -> str:
    """The whole kernel; equal kernels give equal texts."""
    params = ", ".join(
        f"{'out' if p.writable else 'in'} {p.name}: {p.dtype}{_shape(p.shape)}"
        for p in kernel.params
    )
    return "\n".join([f"kernel {kernel.name}({params}) {{", *_block(kernel.body, "  "), "}"])


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _block(body: tuple[Stmt, ...], indent: str) -> Iterator[str]:
    for stmt in body:
        if isinstance(stmt, Store):
            yield f"{indent}{expression(stmt.target)} = {expression(stmt.value)}"
        elif isinstance(stmt, Prefetch):
            yield f"{indent}prefetch {expression(stmt.place)}"
        elif isinstance(stmt, Local):
            yield f"{indent}local {stmt.name}: {stmt.dtype}{_shape(stmt.shape)}"
        else:
            yield indent + _header(stmt)
            yield from _block(stmt.body, indent + "  ")
            yield indent + "}"


def _header(stmt: Loop | Guard) -> str:
    if isinstance(stmt, Guard):
        return f"if {stmt.low} <= {stmt.index} < {stmt.high} {{"
    return f"{stmt.kind} {stmt.variable} in {stmt.start}..{stmt.stop} {{"


def expression(expr: Expr) -> str:
    """One expression, fully parenthesised by its calls."""
    if isinstance(expr, Const):
        return f"{expr.value!r}:{expr.dtype}"
    if isinstance(expr, Load):
        return f"{expr.buffer}[{_subscripts(expr.index)}]"
    if isinstance(expr, Call):
        return f"{expr.function}({', '.join(expression(arg) for arg in expr.args)})"
    assert isinstance(expr, Position)
    return f"#({expr.index})"


def _subscripts(index: tuple[Subscript, ...]) -> str:
    return ", ".join(
        f"clamp({expression(i.value)})" if isinstance(i, Clamped) else str(i) for i in index
    )
