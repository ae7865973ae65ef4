"""Scratch: memory of each thread for the locals of a kernel that are too large for the stack."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from convc.backend.target import ITEM_BYTES
from ir.loops.nodes import Guard, Kernel, Local, Loop, Stmt

ON_STACK = 8192  # bytes; larger locals live in the scratch


def scratch_bytes(kernel: Kernel) -> int:
    """Bytes of scratch that a running kernel needs for its large locals."""
    return sum(_large_locals(kernel.body))


def _large_locals(body: tuple[Stmt, ...]) -> Iterator[int]:
    for stmt in body:
        if isinstance(stmt, Local):
            size = local_bytes(stmt)
            yield size if size > ON_STACK else 0
        elif isinstance(stmt, Loop | Guard):
            yield from _large_locals(stmt.body)


def local_bytes(local: Local) -> int:
    """Rounded up, so that one after the other they stay aligned."""
    return -(-prod(local.shape) * ITEM_BYTES[local.dtype] // 64) * 64
