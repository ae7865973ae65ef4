"""What algorithms answer, checked: one that gives what it must not, maybe a plug-in, is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any, cast

import ir
from convc.algorithms import ALGORITHMS, Algorithm, Site, Wish
from convc.errors import AlgorithmError
from convc.program import Slot
from ir.loops import Kernel, KernelError, verify
from ir.ops import Elementwise, Fused
from ir.types import described

OPS = frozenset(ir.OPS)
WISHED = ("a tuple with a Wish for each of the {} operands: blocks from 1, and a halo, empty or of "
          "a pair from 0 for each spatial axis")  # fmt: skip


def supports(algorithm: Algorithm, site: Site) -> str | None:
    """None, or the reason why the algorithm cannot compute the site's op.

    This function and the others raise ``AlgorithmError`` where the answer is not what it must be;
    to what the algorithm raises they add a note.
    """
    reason = _asked(algorithm, "supports", site)
    _check(algorithm, "supports", site, reason, reason is None or isinstance(reason, str),
           "None or a reason")  # fmt: skip
    return cast("str | None", reason)


def seconds(algorithm: Algorithm, site: Site) -> float:
    """Predicted; infinite where the algorithm has to be asked for."""
    found = _asked(algorithm, "seconds", site)
    right = _is_number(found) and found >= 0
    _check(algorithm, "seconds", site, found, right, "a number from 0 to infinity")
    return cast(float, found)


def tolerance(algorithm: Algorithm, site: Site) -> float:
    """The largest error promised, relative to what the result is made of."""
    found = _asked(algorithm, "tolerance", site)
    right = _is_number(found) and isfinite(found) and found >= 0
    _check(algorithm, "tolerance", site, found, right, "a finite number from 0")
    return cast(float, found)


def block(algorithm: Algorithm, site: Site, given: Sequence[int]) -> int:
    """The channel block in which the result is written."""
    found = _asked(algorithm, "block", site, given)
    _check(algorithm, "block", site, found, _is_count(found, 1), "a number of channels from 1")
    return cast(int, found)


def wishes(algorithm: Algorithm, site: Site) -> tuple[Wish, ...]:
    """How each operand is to be read."""
    found = _asked(algorithm, "wishes", site)
    right = isinstance(found, tuple | list) and len(found) == len(site.inputs)
    right = right and all(map(_is_wish, found, (type.rank for type in site.inputs)))
    _check(algorithm, "wishes", site, found, right, WISHED.format(len(site.inputs)))
    return tuple(found)


def check_run(
    node: ir.Node, algorithm: Algorithm, kernel: Kernel, slots: Sequence[Slot],
    operands: Mapping[int, str],
) -> None:  # fmt: skip
    """Raise ``AlgorithmError`` unless a kernel of an algorithm can run on these slots, and writes
    none of the ``operands``; ``KernelError`` for loops that are wrong, where they are of others."""
    of = f"{node}: the algorithm {algorithm.name!r} runs the kernel {kernel.name!r} on"
    if len(slots) != len(kernel.params):
        raise AlgorithmError(f"{of} {len(slots)} values; it has {len(kernel.params)} parameters")
    for param, slot in zip(kernel.params, slots, strict=True):
        if (param.dtype, param.size) != (slot.dtype, slot.size):
            given = f"{slot.name!r}, {slot.size} elements of {slot.dtype} in memory"
            raise AlgorithmError(f"{of} {given}; its parameter {param.name!r} is "
                                 f"{param.dtype}{list(param.shape)}")  # fmt: skip
        if param.writable and slot.number in operands:
            raise AlgorithmError(
                f"{of} its operand {operands[slot.number]!r}, and writes it; others read it too: "
                "declare it with k.read, and write to what into.write or into.temporary gives"
            )
    if algorithm not in ALGORITHMS or not {type(op) for op in _parts(node.op)} <= OPS:
        try:
            verify(kernel)
        except KernelError as error:
            raise error.within(f"{node}: the algorithm {algorithm.name!r}") from None


def _parts(op: ir.Op) -> Iterator[ir.Op]:
    """An op, and those that it was fused of."""
    yield op
    fused = (op.root, *op.epilogue) if isinstance(op, Fused) else ()
    for part in (step for step, _ in op.steps) if isinstance(op, Elementwise) else fused:
        yield from _parts(part)


def _asked(algorithm: Algorithm, method: str, site: Site, *more: object) -> Any:
    ask: Callable[..., Any] = getattr(algorithm, method)
    try:
        return ask(site, *more)
    except Exception as error:
        error.add_note(f"raised by the algorithm {algorithm.name!r} for {_told(site)}")
        raise


def _check(
    algorithm: Algorithm, method: str, site: Site, answer: object, right: bool, wanted: str
) -> None:
    if not right:
        given = described(answer)
        if isinstance(answer, tuple | list):
            given = f"({', '.join(map(str, answer))})"
        of = f"{method} of the algorithm {algorithm.name!r} gives {given}"
        raise AlgorithmError(f"{_told(site)}: {of}; it must be {wanted}")


def _told(site: Site) -> str:
    return f"node {site.name!r} ({site.op.name})"


def _is_number(answer: Any) -> bool:
    return isinstance(answer, Real) and not isinstance(answer, bool)


def _is_count(answer: Any, least: int) -> bool:
    return isinstance(answer, Integral) and not isinstance(answer, bool) and int(answer) >= least


def _is_wish(wish: Any, rank: int) -> bool:
    """Whether it is a layout of an operand of so many axes."""
    if not isinstance(wish, Wish) or not (isinstance(wish.blocks, tuple) and wish.blocks):
        return False
    if not (isinstance(wish.halo, tuple) and len(wish.halo) in (0, rank - 2)):
        return False
    pairs = all(isinstance(axis, tuple) and len(axis) == 2 for axis in wish.halo)
    counts = [_is_count(block, 1) for block in wish.blocks]
    return pairs and all([*counts, *(_is_count(pad, 0) for axis in wish.halo for pad in axis)])
