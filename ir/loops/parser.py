"""Parse a kernel in the notation of ``ir.loops.nodes`` (see its grammar): ``to_text`` reversed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeVar, get_args

from ir.loops.nodes import (
    Affine,
    Call,
    Clamped,
    Const,
    Expr,
    Guard,
    Kernel,
    Load,
    Local,
    Loop,
    LoopKind,
    Param,
    Position,
    Prefetch,
    Scalar,
    Stmt,
    Store,
    Subscript,
)
from ir.loops.verify import KernelError, verify

T = TypeVar("T")
MAX_DEPTH = 100
TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_]\w*)"
    r"|(?P<number>\d+(?:\.(?!\.)\d*)?(?:e[+-]?\d+)?)"
    r"|(?P<sign>\.\.|<=|[-+*<=#:,(){}\[\]])"
    r"|(?P<end>\Z)|(?P<other>.))"
)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def parse(text: str) -> Kernel:
    """The kernel written in ``text``, verified.

    Raises ``KernelError``: with the line number where the notation is broken, with the kernel's
    name where it is ill-formed.
    """
    parser = _Parser(_tokens(text))
    kernel = parser.kernel()
    verify(kernel)
    return kernel


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at, line = 0, 1
    while not tokens or tokens[-1].kind != "end":
        match = TOKEN.match(text, at)
        assert match is not None and match.lastgroup is not None
        kind, word = match.lastgroup, match[match.lastgroup]
        line += text.count("\n", at, match.start(kind))
        if kind == "other":
            raise KernelError(f"line {line}: unexpected character {word!r}")
        tokens.append(_Token(kind, word, line))
        at = match.end()
    return tokens


class _Parser:
    """Recursive descent, one method per rule of the grammar."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    # -- tokens ----------------------------------------------------------------------------

    def fail(self, expected: str) -> NoReturn:
        token = self.tokens[self.at]
        found = repr(token.text) if token.kind != "end" else "the end"
        raise KernelError(f"line {token.line}: expected {expected}, found {found}")

    def sees(self, text: str, ahead: int = 0) -> bool:
        """Whether the coming token, or one after it, is this one."""
        at = min(self.at + ahead, len(self.tokens) - 1)
        return self.tokens[at].text == text

    def take(self, text: str) -> bool:
        """Step over this token if it is the coming one."""
        found = self.sees(text)
        self.at += found
        return found

    def expect(self, text: str) -> None:
        if not self.take(text):
            self.fail(repr(text))

    def next(self, kind: str, expected: str) -> str:
        """The text of the coming token, which must be of this kind."""
        token = self.tokens[self.at]
        if token.kind != kind:
            self.fail(expected)
        self.at += 1
        return token.text

    def name(self) -> str:
        return self.next("name", "a name")

    def integer(self) -> int:
        sign = -1 if self.take("-") else 1
        if not self.tokens[self.at].text.isdecimal():
            self.fail("an integer")
        return sign * int(self.next("number", "an integer"))

    def sequence(self, opening: str, item: Callable[[], T], closing: str) -> tuple[T, ...]:
        """Items between brackets, separated by commas."""
        self.expect(opening)
        items: list[T] = []
        while not self.sees(closing):
            if items:
                self.expect(",")
            items.append(item())
        self.expect(closing)
        return tuple(items)

    def nested(self, rule: Callable[[], T]) -> T:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"at most {MAX_DEPTH} levels")
        result = rule()
        self.depth -= 1
        return result

    # -- statements ------------------------------------------------------------------------

    def kernel(self) -> Kernel:
        self.expect("kernel")
        name, params = self.name(), self.sequence("(", self.param, ")")
        body = self.block()
        if self.tokens[self.at].kind != "end":
            self.fail("the end")
        return Kernel(name, params, body)

    def param(self) -> Param:
        if not self.sees("in") and not self.sees("out"):
            self.fail("'in' or 'out'")
        writable = self.name() == "out"
        name, dtype, shape = self.typed()
        return Param(name, dtype, shape, writable)

    def typed(self) -> tuple[str, Scalar, tuple[int, ...]]:
        name = self.name()
        self.expect(":")
        return name, self.type(), self.sequence("[", self.integer, "]")

    def type(self) -> Scalar:
        if self.tokens[self.at].text not in get_args(Scalar):
            self.fail("a type")
        return self.name()  # type: ignore[return-value]

    def block(self) -> tuple[Stmt, ...]:
        self.expect("{")
        body: list[Stmt] = []
        while not self.take("}"):
            body.append(self.nested(self.statement))
        return tuple(body)

    def statement(self) -> Stmt:
        word = self.tokens[self.at].text
        if self.sees("[", ahead=1):
            return self.store()
        if word == "if":
            return self.guard()
        if word == "prefetch":
            self.at += 1
            return Prefetch(self.element())
        if word == "local":
            self.at += 1
            return Local(*self.typed())
        if word in get_args(LoopKind):
            return self.loop()
        self.fail("a statement")

    def store(self) -> Store:
        target = self.element()
        self.expect("=")
        return Store(target, self.expression())

    def guard(self) -> Guard:
        self.expect("if")
        low = self.integer()
        self.expect("<=")
        index = self.index()
        self.expect("<")
        return Guard(index, low, self.integer(), self.block())

    def loop(self) -> Loop:
        kind: LoopKind = self.name()  # type: ignore[assignment]
        variable = self.name()
        self.expect("in")
        start = self.integer()
        self.expect("..")
        return Loop(kind, variable, start, self.integer(), self.block())

    # -- expressions -----------------------------------------------------------------------

    def expression(self) -> Expr:
        return self.nested(self._expression)

    def _expression(self) -> Expr:
        if self.take("#"):
            self.expect("(")
            position = Position(self.index())
            self.expect(")")
            return position
        if self.sees("[", ahead=1):
            return self.element()
        if self.sees("(", ahead=1):
            return Call(self.name(), self.sequence("(", self.expression, ")"))
        return self.constant()

    def element(self) -> Load:
        return Load(self.name(), self.sequence("[", self.subscript, "]"))

    def subscript(self) -> Subscript:
        if not (self.sees("clamp") and self.sees("(", ahead=1)):
            return self.index()
        self.at += 2
        value = self.expression()
        self.expect(")")
        return Clamped(value)

    def constant(self) -> Const:
        sign = -1 if self.take("-") else 1
        text = self.tokens[self.at].text
        if text not in ("inf", "nan") and self.tokens[self.at].kind != "number":
            self.fail("an expression")
        self.at += 1
        self.expect(":")
        value = int(text) if text.isdecimal() else math.nan if text == "nan" else float(text)
        return Const(sign * value, self.type())

    def index(self) -> Affine:
        sign = -1 if self.take("-") else 1
        total = self.term() * sign
        while self.sees("+") or self.sees("-"):
            sign = -1 if self.sees("-") else 1
            self.at += 1
            total = total + self.term() * sign
        return total

    def term(self) -> Affine:
        if self.tokens[self.at].kind == "name":
            return Affine.variable(self.name())
        if self.sees("-"):
            self.fail("a number or a name")
        factor = self.integer()
        return Affine.variable(self.name()) * factor if self.take("*") else Affine.of(factor)
