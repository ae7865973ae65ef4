"""What algorithms answer, checked: one that gives what it must not, maybe a plug-in, is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any, cast

from convc.algorithms import Algorithm, Site, Wish
from convc.errors import AlgorithmError
from ir.types import described

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
