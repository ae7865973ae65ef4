"""Print a kernel in the notation of ``ir.loops.nodes`` (see its grammar)."""

from __future__ import annotations

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
    lines = [f"kernel {kernel.name}({params}) {{"]
    _write(lines, kernel.body, "  ")
    return "\n".join([*lines, "}"])


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _write(lines: list[str], body: tuple[Stmt, ...], indent: str) -> None:
    for stmt in body:
        if isinstance(stmt, Store):
            lines.append(f"{indent}{expression(stmt.target)} = {expression(stmt.value)}")
        elif isinstance(stmt, Prefetch):
            lines.append(f"{indent}prefetch {expression(stmt.place)}")
        elif isinstance(stmt, Local):
            lines.append(f"{indent}local {stmt.name}: {stmt.dtype}{_shape(stmt.shape)}")
        else:
            lines.append(indent + _header(stmt))
            _write(lines, stmt.body, indent + "  ")
            lines.append(indent + "}")


def _header(stmt: Loop | Guard) -> str:
    if isinstance(stmt, Guard):
        return f"if {stmt.low} <= {stmt.index} < {stmt.high} {{"
    return f"{stmt.kind} {stmt.variable} in {stmt.start}..{stmt.stop} {{"


def expression(expr: Expr) -> str:
    """One expression, fully parenthesised by its calls."""
    if isinstance(expr, Load):
        return f"{expr.buffer}[{', '.join([_subscript(each) for each in expr.index])}]"
    if isinstance(expr, Const):
        return f"{expr.value!r}:{expr.dtype}"
    if isinstance(expr, Call):
        return f"{expr.function}({', '.join([expression(arg) for arg in expr.args])})"
    assert isinstance(expr, Position)
    return f"#({expr.index})"


def _subscript(index: Subscript) -> str:
    return f"clamp({expression(index.value)})" if isinstance(index, Clamped) else str(index)
