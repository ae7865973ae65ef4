"""Shapes, and elements that are moved, repeated and filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ir
from convc.frontends.onnx.export.call import Call, Emit
from ir import ops
from ir.dims import Dim, Sym

LAST = 2**63 - 1


def sliced(n: Call[Any], x: str, starts: Sequence[Dim], sizes: Sequence[Dim],
           steps: Sequence[int] = ()) -> str:  # fmt: skip
    """So many elements of each axis from some place on."""
    steps = steps or (1,) * len(starts)
    ends = [a + size * by for a, size, by in zip(starts, sizes, steps, strict=True)]
    return n("Slice", x, n.extents(starts), n.extents(ends),
             n.integers(range(len(ends)), "axes"), n.integers(steps, "steps"))  # fmt: skip


def padded(
    n: Call[Any], x: str, shape: Sequence[Dim], pads: Sequence[tuple[Dim, Dim]], filler: float = 0
) -> str:
    """x with fillers around it, cropped where pads are negative, also by more than there is."""
    starts: list[int] = []
    ends: list[int] = []
    around: list[tuple[Dim, Dim]] = []
    for size, (lo, hi) in zip(shape, pads, strict=True):
        front, back = (max(-pad, 0) if isinstance(pad, int) else 0 for pad in (lo, hi))
        if isinstance(size, int) and front + back >= size:  # nothing is left
            starts.append(0)
            ends.append(0)
            around.append((lo + size + hi, 0))
        else:
            starts.append(front)
            ends.append(-back or LAST)
            around.append((lo + front, hi + back))
    if any(starts) or any(end != LAST for end in ends):
        axes = n.integers(range(len(starts)), "axes")
        x = n("Slice", x, n.integers(starts, "starts"), n.integers(ends, "ends"), axes)
    if not any(pad for pair in around for pad in pair):
        return x
    listed = [lo for lo, _ in around] + [hi for _, hi in around]
    return n("Pad", x, n.extents(listed), n.number(filler, "filler"))


def _pad(n: Call[ops.Pad]) -> str:
    """Fillers between elements are those of an axis more, behind each element, less the last."""
    x, shape, pads = n.x, n.shape, list(n.op.pads)
    for axis, fillers in enumerate(n.op.interior):
        if fillers:
            apart = (*shape[: axis + 1], 1, *shape[axis + 1 :])
            x = n.reshaped(x, shape, apart)
            around = [(0, fillers if place == axis + 1 else 0) for place in range(len(apart))]
            x = padded(n, x, apart, around, n.op.value)
            wide = (*shape[: axis + 1], 1 + fillers, *shape[axis + 1 :])
            shape = (*shape[:axis], shape[axis] * (1 + fillers), *shape[axis + 1 :])
            x = n.reshaped(x, wide, shape)
            lo, hi = pads[axis]
            pads[axis] = lo, hi - fillers
    return padded(n, x, shape, pads, n.op.value)


def _slice(n: Call[ops.Slice]) -> str:
    return sliced(n, n.x, n.op.starts, n.out, n.op.steps) if n.out else n.x


def _expand(n: Call[ops.Expand]) -> str:
    """An extent that stays is asked for as 1, which repeats nothing."""
    before = (*(1,) * (len(n.out) - len(n.shape)), *n.shape)
    wanted = [1 if isinstance(new, Sym) and new == old else new
              for old, new in zip(before, n.out, strict=True)]  # fmt: skip
    return n("Expand", n.x, n.extents(wanted))


def _reverse(n: Call[ops.Reverse]) -> str:
    axes = n.op.axes
    if not axes:
        return n.x
    backwards = n.integers([-1] * len(axes), "backwards")
    return n("Slice", n.x, backwards, n.integers([-LAST] * len(axes), "ends"),
             n.integers(axes, "axes"), backwards)  # fmt: skip


def _transpose(n: Call[ops.Transpose]) -> str:
    return n("Transpose", n.x, perm=n.op.perm) if n.op.perm else n.x


MOVEMENTS: dict[type[ir.Op], Emit] = {
    ops.Reshape: lambda n: n.reshaped(n.x, n.shape, n.out),
    ops.Transpose: _transpose,
    ops.Slice: _slice,
    ops.Pad: _pad,
    ops.Concat: lambda n: n("Concat", *n.operands, axis=n.op.axis),
    ops.Reverse: _reverse,
    ops.Expand: _expand,
}
