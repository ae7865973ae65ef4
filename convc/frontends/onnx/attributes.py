"""The attributes of a node, read as what the operator declares them to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convc.frontends.onnx.errors import NodeError

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

FLOAT, INT, STRING, TENSOR, GRAPH, FLOATS, INTS, STRINGS = 1, 2, 3, 4, 5, 6, 7, 8
FIELDS = {FLOAT: "f", INT: "i", STRING: "s", TENSOR: "t", GRAPH: "g", FLOATS: "floats",
          INTS: "ints", STRINGS: "strings"}  # fmt: skip
NOUNS = {FLOAT: "a number", INT: "an integer", STRING: "a string", TENSOR: "a tensor",
         GRAPH: "a graph", FLOATS: "numbers", INTS: "integers", STRINGS: "strings"}  # fmt: skip
LONGEST = 60


class Attributes:
    """Attributes by name. Inside of a function, some stand for those of the node that calls it."""

    def __init__(self, node: NodeProto, given: Mapping[str, AttributeProto] | None = None) -> None:
        self.protos: dict[str, AttributeProto] = {}
        for proto in node.attribute:
            if not proto.ref_attr_name:
                self.protos[proto.name] = proto
            elif given is not None and proto.ref_attr_name in given:
                self.protos[proto.name] = given[proto.ref_attr_name]

    def __contains__(self, name: str) -> bool:
        return name in self.protos

    def _value(self, name: str, kind: int) -> Any:
        proto = self.protos[name]
        if proto.type not in (kind, 0):
            raise NodeError(f"attribute {name} must be {NOUNS[kind]}")
        return getattr(proto, FIELDS[kind])

    def integer(self, name: str, default: int) -> int:
        """An integer."""
        return int(self._value(name, INT)) if name in self else default

    def number(self, name: str, default: float) -> float:
        """A number."""
        return float(self._value(name, FLOAT)) if name in self else default

    def text(self, name: str, default: str) -> str:
        """A string."""
        if name not in self:
            return default
        value: bytes = self._value(name, STRING)
        return value.decode("utf-8", "replace")

    def flag(self, name: str, default: bool = False) -> bool:
        """An integer that is 0 or 1."""
        value = self.integer(name, int(default))
        if value not in (0, 1):
            raise NodeError(f"attribute {name} = {value} must be 0 or 1")
        return value == 1

    def choice(self, name: str, default: str, *others: str) -> str:
        """One of some strings."""
        value = self.text(name, default)
        if value not in (default, *others):
            hint = f"must be one of {', '.join((default, *others))}"
            raise NodeError(f"attribute {name} = '{value:.60}' {hint}")
        return value

    def integers(self, name: str, count: int | None = None) -> tuple[int, ...] | None:
        """Integers, so many; None where the attribute is left out."""
        if name not in self:
            return None
        values = tuple(int(value) for value in self._value(name, INTS))
        if count is not None and len(values) != count:
            raise NodeError(f"attribute {name} has {len(values)} entries, not {count}")
        return values

    def numbers(self, name: str) -> tuple[float, ...] | None:
        """Numbers; None where the attribute is left out."""
        return tuple(self._value(name, FLOATS)) if name in self else None

    def texts(self, name: str) -> tuple[str, ...]:
        """Strings, none by default."""
        if name not in self:
            return ()
        values: list[bytes] = self._value(name, STRINGS)
        return tuple(value.decode("utf-8", "replace") for value in values)

    def tensor(self, name: str) -> TensorProto | None:
        """A stored tensor; None where the attribute is left out."""
        value: TensorProto | None = self._value(name, TENSOR) if name in self else None
        return value

    def graph(self, name: str) -> GraphProto:
        """A graph within the node."""
        if name not in self:
            raise NodeError(f"attribute {name} is missing")
        value: GraphProto = self._value(name, GRAPH)
        return value

    def __str__(self) -> str:
        return ", ".join(f"{name}={self._shown(proto)}" for name, proto in self.protos.items())

    def _shown(self, proto: AttributeProto) -> str:
        value = getattr(proto, FIELDS[proto.type]) if proto.type in FIELDS else "…"
        if proto.type in (TENSOR, GRAPH):
            return f"<{NOUNS[proto.type][2:]}>"
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")[:LONGEST]
        if isinstance(value, int | float | str):
            return f"{value:g}" if isinstance(value, float) else str(value)
        shown = str([item if not isinstance(item, bytes) else item.decode("utf-8", "replace")
                     for item in value[:12]])  # fmt: skip
        return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"
