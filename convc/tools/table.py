"""Results as text: aligned tables, numbers in their natural units, JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from ir.names import printable

NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?[a-zA-Z%/]{1,8})?|-|inf|nan|")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows under headers, two spaces between columns; columns of numbers align at the right."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    columns = list(zip(headers, *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [len(c) > 1 and all(NUMBER.fullmatch(cell) for cell in c[1:]) for c in columns]
    lines = [list(headers), ["-" * width for width in widths], *cells]
    return "\n".join(_line(line, widths, right) for line in lines)


def pairs(items: Iterable[tuple[str, object]], indent: str = "  ") -> str:
    """One ``name  value`` line each, the values aligned."""
    listed = [(printable(name), str(value)) for name, value in items]
    width = max((len(name) for name, _ in listed), default=0)
    return "\n".join(f"{indent}{name:<{width}}  {value}".rstrip() for name, value in listed)


def seconds(value: float) -> str:
    """A time in its natural unit: ``12.3 us``."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= 0.9995 * size:  # as it is rounded
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def nbytes(value: float) -> str:
    """A size in its natural unit: ``1.5 MiB``."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= (1 - 0.5 / 1024) * size:  # as it is rounded
            return f"{value / size:.4g} {unit}"
    return f"{value:.0f} B"


def json_text(value: object) -> str:
    """Indented JSON; numbers that JSON lacks (NaN, infinity) become null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    placed = zip(cells, widths, right, strict=True)
    return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in placed).rstrip()
