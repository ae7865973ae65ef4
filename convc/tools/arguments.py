"""Arguments that several commands share."""

from __future__ import annotations

from collections.abc import Sequence

import ir
from convc.errors import InputError


def parse_sizes(texts: Sequence[str], graph: ir.Graph, default: int | None = None) -> dict[str, int]:
    """``NAME=NUMBER`` pairs as sizes of the graph's symbolic extents, all of which are needed.

    Those not given are ``default``. Raises ``InputError`` for anything else.
    """
    sizes: dict[str, int] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        if not equals or not number.isdecimal():
            raise InputError(f"size {text!r}: write NAME=NUMBER, such as N=1")
        if name not in graph.symbols:
            known = ", ".join(sorted(graph.symbols)) or "none"
            raise InputError(f"size {text!r}: the graph's symbolic extents are: {known}")
        sizes[name] = int(number)
    missing = graph.symbols - sizes.keys()
    if missing and default is None:
        example = " ".join(f"{name}=1" for name in sorted(missing))
        raise InputError(f"graph '{graph.name}' has symbolic extents; give them: --sizes {example}")
    return sizes | {name: default for name in missing if default is not None}
