"""Extents that may be symbolic: `Dim` is an int or a `Sym`, a polynomial in named sizes.

The atoms of the polynomial are names and floor quotients `(expression)//int`. Expressions are
kept in one canonical form, so two of them are equal as Python values whenever the rules below
make them equal, and anything that collapses to a constant is a plain int.
"""

from __future__ import annotations

import ast
import keyword
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ir.errors import ShapeError

MAX_TEXT = 1000
RESERVED = frozenset({"true", "false", "inf", "nan", *keyword.kwlist})


@dataclass(frozen=True)
class Quotient:
    """The atom `numerator // divisor` (rounded down), with divisor ≥ 2."""

    numerator: Sym
    divisor: int

    def __str__(self) -> str:
        text = str(self.numerator)
        return f"{text}//{self.divisor}" if text.isidentifier() else f"({text})//{self.divisor}"


Atom: TypeAlias = "str | Quotient"
Monomial: TypeAlias = "tuple[Atom, ...]"


@dataclass(frozen=True)
class Sym:
    """A symbolic extent: a sum of integer multiples of products of atoms, never a constant.

    Make one with `symbol` or `parse_dim`. It supports `+`, `-`, `*` with extents and `//` by a
    positive int; `str` gives a text that `parse_dim` reads back to an equal value.
    """

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        return _add(self, other)

    def __radd__(self, other: Dim) -> Dim:
        return _add(self, other)

    def __sub__(self, other: Dim) -> Dim:
        return _add(self, other * -1)

    def __rsub__(self, other: Dim) -> Dim:
        return _add(self * -1, other)

    def __mul__(self, other: Dim) -> Dim:
        return _multiply(self, other)

    def __rmul__(self, other: Dim) -> Dim:
        return _multiply(self, other)

    def __floordiv__(self, divisor: int) -> Dim:
        return _floor_divide(self, divisor)

    def __str__(self) -> str:
        text = "".join(_term_text(monomial, factor) for monomial, factor in self.terms)
        return text.removeprefix("+")

    __repr__ = __str__


Dim: TypeAlias = int | Sym


def symbol(name: str) -> Sym:
    """The extent called `name`: letters, digits, underscores, and not a word of the text form."""
    if not (name.isidentifier() and name.isascii()) or name in RESERVED:
        raise ShapeError(f"'{name}' is not a symbol name: use letters, digits and underscores")
    return Sym((((name,), 1),))


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all dims, 1 when there are none."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def symbols(dim: Dim) -> frozenset[str]:
    """The names that `dim` depends on."""
    if isinstance(dim, int):
        return frozenset()
    atoms = [atom for monomial, _ in dim.terms for atom in monomial]
    return frozenset().union(
        *({atom} if isinstance(atom, str) else symbols(atom.numerator) for atom in atoms)
    )


def bind(dim: Dim, env: Mapping[str, Dim]) -> Dim:
    """`dim` with the names in `env` replaced; an int when all are known, else a smaller `Sym`.

    Raises ShapeError when the result is a negative int.
    """
    result = _substitute(dim, env)
    if isinstance(result, int) and result < 0:
        known = {name: env[name] for name in sorted(symbols(dim) & env.keys())}
        raise ShapeError(f"extent {dim} is {result} with {known}; give larger inputs")
    return result


def divide(dim: Dim, by: Dim) -> Dim | None:
    """The exact quotient `dim / by`, or None when it is not a polynomial. `by` is one term."""
    divisor = _terms(by)
    if len(divisor) != 1:
        return 1 if dim == by else None
    ((factor_atoms, factor),) = divisor.items()
    terms: dict[Monomial, int] = {}
    for monomial, coefficient in _terms(dim).items():
        rest = list(monomial)
        for atom in factor_atoms:
            if atom not in rest:
                return None
            rest.remove(atom)
        if coefficient % factor:
            return None
        terms[tuple(rest)] = coefficient // factor
    return _from_terms(terms)


def parse_dim(text: str) -> Dim:
    """The extent written in `text`: ints, names, `+ - *`, `//` by an int, parentheses.

    Raises ShapeError for anything else.
    """
    if len(text) > MAX_TEXT:
        raise ShapeError(f"extent of {len(text)} characters is longer than {MAX_TEXT}")
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ShapeError(f"cannot read extent '{text}'; write e.g. 28, N or (H-3)//2+1") from None


def _terms(dim: Dim) -> dict[Monomial, int]:
    if isinstance(dim, int):
        return {(): dim} if dim else {}
    return dict(dim.terms)


def _from_terms(terms: Mapping[Monomial, int]) -> Dim:
    kept = {monomial: factor for monomial, factor in terms.items() if factor}
    if not kept.keys() - {()}:
        return kept.get((), 0)
    order = sorted(kept, key=lambda monomial: (-len(monomial), [str(atom) for atom in monomial]))
    return Sym(tuple((monomial, kept[monomial]) for monomial in order))


def _add(a: Dim, b: Dim) -> Dim:
    total = _terms(a)
    for monomial, factor in _terms(b).items():
        total[monomial] = total.get(monomial, 0) + factor
    return _from_terms(total)


def _multiply(a: Dim, b: Dim) -> Dim:
    total: dict[Monomial, int] = {}
    for left, left_factor in _terms(a).items():
        for right, right_factor in _terms(b).items():
            monomial = tuple(sorted(left + right, key=str))
            total[monomial] = total.get(monomial, 0) + left_factor * right_factor
    return _from_terms(total)


def _floor_divide(dim: Sym, divisor: int) -> Dim:
    if divisor < 1:
        raise ShapeError(f"({dim})//{divisor}: the divisor must be a positive int")
    nested = [term for term in dim.terms if _is_lone_quotient(term)]
    if len(nested) == 1:  # (a//b + c)//d = (a + b·c)//(b·d)
        inner = nested[0][0][0]
        assert isinstance(inner, Quotient)
        rest = _add(dim, Sym(((nested[0][0], -1),)))
        return (inner.numerator + rest * inner.divisor) // (inner.divisor * divisor)
    whole = _from_terms({monomial: factor // divisor for monomial, factor in dim.terms})
    return _add(whole, _proper_quotient(dim, divisor))


def _is_lone_quotient(term: tuple[Monomial, int]) -> bool:
    monomial, factor = term
    return factor == 1 and len(monomial) == 1 and isinstance(monomial[0], Quotient)


def _proper_quotient(dim: Sym, divisor: int) -> Dim:
    """What is left of `dim // divisor` after whole multiples are out: factors in [0, divisor)."""
    rest = {monomial: factor % divisor for monomial, factor in dim.terms}
    common = math.gcd(divisor, *(factor for monomial, factor in rest.items() if monomial))
    reduced = _from_terms({monomial: factor // common for monomial, factor in rest.items()})
    if reduced != dim:  # perhaps a constant now, or a lone quotient, which takes in the divisor
        return reduced // (divisor // common)
    return Sym((((Quotient(dim, divisor),), 1),))


def _substitute(dim: Dim, env: Mapping[str, Dim]) -> Dim:
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, factor in dim.terms:
        total = total + product([_substitute_atom(atom, env) for atom in monomial]) * factor
    return total


def _substitute_atom(atom: Atom, env: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, str):
        return env.get(atom, symbol(atom))
    return _substitute(atom.numerator, env) // atom.divisor


def _term_text(monomial: Monomial, factor: int) -> str:
    sign = "-" if factor < 0 else "+"
    if not monomial:
        return f"{sign}{abs(factor)}"
    factors = [str(abs(factor))] if abs(factor) != 1 else []
    alone = len(monomial) == 1 and factor == 1
    factors += [str(atom) if alone or isinstance(atom, str) else f"({atom})" for atom in monomial]
    return sign + "*".join(factors)


def _evaluate(node: ast.expr) -> Dim:
    match node:
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            return value
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _evaluate(operand) * -1
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _evaluate(left) + _evaluate(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _evaluate(left) - _evaluate(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _evaluate(left) * _evaluate(right)
        case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
            divisor = _evaluate(right)
            if not isinstance(divisor, int) or divisor < 1:
                raise ShapeError(f"the divisor {divisor} must be a positive int")
            return _evaluate(left) // divisor
    raise ValueError("not an extent")
