"""How much of the buffers that it is given a kernel touches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod

import ir
from convc.program import Step
from ir.loops import Kernel
from ir.loops.nodes import Call, Clamped, Expr, Guard, Load, Loop, Stmt, Store, Subscript

Span = tuple[int, int]
"""The least and the largest value of a loop variable, or of a subscript."""


def moved_bytes(step: Step) -> int:
    """``touched_bytes`` of a step, what it reads and writes over twice."""
    over = (step.kernel.params[place] for place in step.overwrites)
    again = sum(param.size * ir.DType(param.dtype).itemsize for param in over)
    return touched_bytes(step.kernel) + again


def touched_bytes(kernel: Kernel) -> int:
    """The bytes that a kernel reads and writes, each counted once.

    Of each buffer the smallest box that holds all elements accessed, or as many elements as the
    loops come to, where these are fewer.
    """
    params = {param.name: param for param in kernel.params}
    boxes: dict[str, dict[tuple[Span, ...], int]] = {name: {} for name in params}
    for access, spans in _accesses(kernel.body, {}):
        if access.buffer in params:
            axes = list(zip(access.index, params[access.buffer].shape, strict=True))
            box = tuple(_span(index, extent, spans) for index, extent in axes)
            reached = prod(_reached(index, extent, spans) for index, extent in axes)
            seen = boxes[access.buffer]
            seen[box] = max(seen.get(box, 0), reached)
    return sum(
        min(_hull(seen), sum(seen.values())) * ir.DType(params[name].dtype).itemsize
        for name, seen in boxes.items()
        if seen
    )


def _hull(boxes: Iterable[tuple[Span, ...]]) -> int:
    """The elements of the smallest box around boxes."""
    axes = zip(*boxes, strict=True)
    return prod(max(high for _, high in axis) + 1 - min(low for low, _ in axis) for axis in axes)


def _span(index: Subscript, extent: int, spans: Mapping[str, Span]) -> Span:
    """What a subscript may be, on an axis of that extent; guards keep it there."""
    if isinstance(index, Clamped):
        return 0, extent - 1
    low, high = index.interval(spans)
    return max(low, 0), min(high, extent - 1)


def _reached(index: Subscript, extent: int, spans: Mapping[str, Span]) -> int:
    """How many values a subscript has at most."""
    low, high = _span(index, extent, spans)
    if isinstance(index, Clamped):
        return extent
    ranges = (spans[name] for name, _ in index.terms)
    return min(high - low + 1, prod(last - first + 1 for first, last in ranges))


def _accesses(
    body: Iterable[Stmt], spans: Mapping[str, Span]
) -> Iterator[tuple[Load, Mapping[str, Span]]]:
    """The elements that are read and written, and the loops around them."""
    for stmt in body:
        if isinstance(stmt, Loop):
            inner = {**spans, stmt.variable: (stmt.start, stmt.stop - 1)}
            yield from _accesses(stmt.body, inner)
        elif isinstance(stmt, Guard):
            yield from _accesses(stmt.body, spans)
        elif isinstance(stmt, Store):
            yield from ((each, spans) for each in (*_within(stmt.target), *_loads(stmt.value)))


def _loads(expr: Expr) -> Iterator[Load]:
    if isinstance(expr, Load):
        yield from _within(expr)
    for arg in expr.args if isinstance(expr, Call) else ():
        yield from _loads(arg)


def _within(access: Load) -> Iterator[Load]:
    """An element, and those that its computed subscripts read."""
    yield access
    for index in access.index:
        if isinstance(index, Clamped):
            yield from _loads(index.value)
