"""The recursive-descent parser behind `ir.text.parse`.

graph   = "graph" NAME "{" {input | weight | node} return "}"
input   = "input" VALUE ":" type            weight = "weight" VALUE ":" type
node    = VALUE {"," VALUE} "=" WORD "(" [VALUE {"," VALUE}] ")" ["{" attrs "}"] ":" types
return  = "return" [NAME "=" VALUE {"," NAME "=" VALUE}]
attrs   = [WORD "=" attr {"," WORD "=" attr}]
attr    = number | "true" | "false" | STRING | extent | WORD "{" attrs "}" | "(" attr, … ")"

A VALUE is "%" and a NAME, which is plain or a STRING, in quotes (see `ir.names`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

from ir.dims import parse_dim
from ir.errors import Error, ParseError, did_you_mean
from ir.graph import Node
from ir.names import NAME, unquoted
from ir.op import Op
from ir.ops import OP_BY_NAME
from ir.types import TensorType

MAX_DEPTH = 20
SPACE = re.compile(r"\s*")
COMMENT = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
BRACE = re.compile(r" *\{")
OPERATOR = re.compile(r" *[-+*/]")
WORD = re.compile(r"[A-Za-z_]\w*")
TYPE = re.compile(r"\w+\s*\[[^\[\]{}]*\]")
FLOAT = re.compile(r"-?(?:\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+|inf\b|nan\b)")
EXTENT_END = re.compile(r"[,{}=;:%\"\n]|$")


@dataclass
class Parsed:
    """What a text says, before it is checked as a graph."""

    name: str
    inputs: dict[str, TensorType] = field(default_factory=dict)
    weights: dict[str, TensorType] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    declared: dict[str, tuple[TensorType, int]] = field(default_factory=dict)


class Parser:
    """Reads one text from front to back; every complaint is a ParseError with its place."""

    def __init__(self, text: str) -> None:
        self.text = COMMENT.sub(lambda match: " " * len(match[0]), text)
        self.at = 0

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        """Raise ParseError at a position of the text, by default the current one."""
        place = self.at if at is None else at
        line = self.text.count("\n", 0, place) + 1
        column = place - self.text.rfind("\n", 0, place)
        raise ParseError(message, line, column)

    def graph(self) -> Parsed:
        """The whole text."""
        self._keyword("graph")
        parsed = Parsed(self._text("the name of the graph"))
        self._expect("{")
        while not self._is_keyword("return"):
            self._statement(parsed)
        self._keyword("return")
        self._returns(parsed)
        self._expect("}")
        self._skip()
        if self.at < len(self.text):
            self.fail("the text goes on after the graph; remove the rest")
        return parsed

    def _statement(self, parsed: Parsed) -> None:
        self._skip()
        start = self.at
        if self._peek("%"):
            self._node(parsed)
            return
        word = self._match(WORD, "input, weight, return or a node such as '%y = relu(%x) : …'")
        if word not in ("input", "weight"):
            hint = did_you_mean(word, ("input", "weight", "return"))
            self.fail(f"unknown statement '{word}'{hint}", start)
        place, name = self.at, self._value_name()
        if name in parsed.inputs or name in parsed.weights:
            self.fail(f"'{name}' is declared twice; give every value its own name", place)
        self._expect(":")
        (parsed.inputs if word == "input" else parsed.weights)[name] = self._type()

    def _node(self, parsed: Parsed) -> None:
        outputs = [self._value_name()]
        while self._accept(","):
            outputs.append(self._value_name())
        self._expect("=")
        name, start = self._op_name()
        self._expect("(")
        inputs = self._list_of_values()
        op = self._op(name, start, depth=0) if self._peek("{") else self._make(name, {}, start)
        self._expect(":")
        for number, output in enumerate(outputs):
            if number:
                self._expect(",")
            self._skip()
            place = self.at
            parsed.declared[output] = self._type(), place
        parsed.nodes.append(Node(op, tuple(inputs), tuple(outputs)))

    def _returns(self, parsed: Parsed) -> None:
        while not self._peek("}"):
            self._skip()
            start, public = self.at, self._text("the name of an output")
            if public in parsed.outputs:
                self.fail(f"output '{public}' is returned twice", start)
            self._expect("=")
            parsed.outputs[public] = self._value_name()
            if not self._accept(","):
                return

    def _list_of_values(self) -> list[str]:
        values: list[str] = []
        while not self._accept(")"):
            if values:
                self._expect(",")
            values.append(self._value_name())
        return values

    def _op_name(self) -> tuple[str, int]:
        self._skip()
        start = self.at
        name = self._match(WORD, "the name of an op")
        if name not in OP_BY_NAME:
            hint = "; one of your own has to stand in ir.OP_BY_NAME"
            self.fail(f"unknown op '{name}'{did_you_mean(name, OP_BY_NAME) or hint}", start)
        return name, start

    def _op(self, name: str, start: int, depth: int) -> Op:
        """The attributes in braces that follow the name of an op."""
        self._expect("{")
        attributes: dict[str, Any] = {}
        while not self._accept("}"):
            if attributes:
                self._expect(",")
            self._skip()
            place, key = self.at, self._match(WORD, "the name of an attribute")
            if key in attributes:
                self.fail(f"attribute '{key}' is given twice", place)
            self._expect("=")
            attributes[key] = self._attribute(depth + 1)
        return self._make(name, attributes, start)

    def _make(self, name: str, attributes: dict[str, Any], start: int) -> Op:
        kind = OP_BY_NAME[name]
        known = {field.name for field in fields(kind)}
        for key in attributes:
            if key not in known:
                self.fail(f"{name} has no attribute '{key}'{did_you_mean(key, known)}", start)
        if missing := sorted(known - attributes.keys()):
            self.fail(f"{name} needs the attributes {', '.join(missing)}", start)
        try:
            return kind(**attributes)
        except Error as error:
            self.fail(str(error), start)

    def _attribute(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            self.fail(f"attributes are nested deeper than {MAX_DEPTH}")
        self._skip()
        if self._peek('"'):
            return self._text("a string")
        if number := FLOAT.match(self.text, self.at):
            self.at = number.end()
            return float(number[0])
        if self._peek("(") and not self._starts_extent():
            return self._tuple(depth)
        word = WORD.match(self.text, self.at)
        if word and word[0] in ("true", "false"):
            self.at = word.end()
            return word[0] == "true"
        if word and BRACE.match(self.text, word.end()):
            return self._op(*self._op_name(), depth=depth)
        return self._extent()

    def _tuple(self, depth: int) -> tuple[Any, ...]:
        self._expect("(")
        items: list[Any] = []
        while not self._accept(")"):
            items.append(self._attribute(depth + 1))
            if not self._accept(","):
                self._expect(")")
                break
        return tuple(items)

    def _starts_extent(self) -> bool:
        """Whether the parenthesis here opens an extent: an operator follows where it closes."""
        return OPERATOR.match(self.text, self._closing(self.at) + 1) is not None

    def _extent(self) -> Any:
        start = self.at
        end = self._extent_end(start)
        self.at = end
        try:
            return parse_dim(self.text[start:end])
        except Error as error:
            self.fail(str(error), start)

    def _extent_end(self, at: int) -> int:
        """Where the extent that starts here ends: before a `,` or `)` of the enclosing value."""
        depth = 0
        while at < len(self.text) and not EXTENT_END.match(self.text, at):
            depth += {"(": 1, ")": -1}.get(self.text[at], 0)
            if depth < 0:
                break
            at += 1
        return at

    def _closing(self, at: int) -> int:
        """The position of the parenthesis that closes the one at `at`, or the end of the text."""
        depth = 0
        for place in range(at, len(self.text)):
            depth += {"(": 1, ")": -1}.get(self.text[place], 0)
            if not depth:
                return place
        return len(self.text)

    def _type(self) -> TensorType:
        self._skip()
        start = self.at
        text = self._match(TYPE, "a type such as f32[N, 1, 28, 28]")
        try:
            return TensorType.parse(text)
        except Error as error:
            self.fail(str(error), start)

    def _value_name(self) -> str:
        self._expect("%", "a value such as %x")
        if NAME.match(self.text, self.at) is None:
            self.fail("expected a name directly after '%'")
        return self._text("a name")

    def _text(self, what: str) -> str:
        """A name or a string, in quotes or without."""
        self._skip()
        start, found = self.at, self._match(NAME, what)
        try:
            return unquoted(found)
        except ValueError:
            hint = r"after \ comes one of \"/bfnrtu, and no control character"
            self.fail(f"{found:.60} is no string of JSON; {hint}", start)

    def _skip(self) -> None:
        match = SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def _peek(self, symbol: str) -> bool:
        self._skip()
        return self.text.startswith(symbol, self.at)

    def _accept(self, symbol: str) -> bool:
        found = self._peek(symbol)
        self.at += len(symbol) * found
        return found

    def _expect(self, symbol: str, what: str = "") -> None:
        if not self._accept(symbol):
            self.fail(f"expected {what or repr(symbol)}, found {self._found()}")

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        self._skip()
        match = pattern.match(self.text, self.at)
        if match is None:
            self.fail(f"expected {what}, found {self._found()}")
        self.at = match.end()
        return match[0]

    def _is_keyword(self, word: str) -> bool:
        self._skip()
        match = WORD.match(self.text, self.at)
        return match is not None and match[0] == word

    def _keyword(self, word: str) -> None:
        if not self._is_keyword(word):
            self.fail(f"expected '{word}', found {self._found()}")
        self.at += len(word)

    def _found(self) -> str:
        rest = self.text[self.at :].split(maxsplit=1)
        return f"'{rest[0][:20]}'" if rest else "the end of the text"
