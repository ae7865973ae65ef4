"""Names of values, outputs and graphs: any text but the empty one.

In the textual form a plain name stands as it is, as in `%conv.weight`; another one is in quotes,
as a string of JSON: `%"input:0"`, `%"a \\"b\\""`. What cannot be printed is escaped, so a name
never ends a line.
"""

from __future__ import annotations

import json
import re

from ir.errors import GraphError
from ir.types import described

SPECIAL = frozenset(' %(){}=,:;"')  # what no plain name has
NAME = re.compile(r'"(?:[^"\\\n]|\\.)*"|[^\s%(){}=,:;"]+')  # as it is written


def check_name(name: str, what: str = "value") -> None:
    """GraphError unless `name` can name a value, a graph or an output."""
    if not (isinstance(name, str) and name):
        raise GraphError(f"{described(name)} is not a name of a {what}; use a text, not empty")
    if not (name.isprintable() or _is_unicode(name)):
        raise GraphError(f"{described(name)} is not a name of a {what}; half a surrogate pair is "
                         "no character")  # fmt: skip


def written(name: str) -> str:
    """A name as it stands in the textual form, without `%`."""
    return name if name.isprintable() and SPECIAL.isdisjoint(name) else quoted(name)


def quoted(text: str) -> str:
    """A text in quotes, as in JSON."""
    return printable(json.dumps(text, ensure_ascii=False))


def unquoted(text: str) -> str:
    """What is written so, in quotes or without; ValueError for quotes that JSON does not know."""
    return str(json.loads(text)) if text.startswith('"') else text


def printable(text: str) -> str:
    """The text with what cannot be printed escaped, as in JSON."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
