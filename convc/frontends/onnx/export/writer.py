"""The lines of a model in the making: nodes, constants, and extents that are known at run time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import ir
from convc.frontends.onnx.names import unique
from convc.frontends.onnx.symbolic import LARGEST
from ir.dims import Dim, Quotient, Sym
from ir.types import Array

SHARED = 64  # bytes of a constant up to which equal ones are one


class NoFormError(Exception):
    """Why ONNX cannot express a node; without a hint, it can when the sizes are bound."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass
class Line:
    """A node of ONNX, before it becomes one."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Writer:
    """Collects lines; every name that it makes is new."""

    def __init__(self, inputs: Mapping[str, ir.TensorType], taken: Iterable[str]) -> None:
        self.inputs = inputs
        self.lines: list[Line] = []
        self.constants: dict[str, Array] = {}
        self._taken = set(taken)
        self._extents: dict[Dim, str] = {}
        self._shared: dict[object, str] = {}

    def line(
        self, kind: str, inputs: Sequence[str], stem: str, count: int = 1, **attributes: Any
    ) -> tuple[str, ...]:
        """Append a node; the names of its results. Attributes that are None are left out."""
        for value in attributes.values():
            check_integers(*(value if isinstance(value, list | tuple) else (value,)))
        results = tuple(unique(f"{stem}.{kind}", self._taken) for _ in range(count))
        given = {name: value for name, value in attributes.items() if value is not None}
        self.lines.append(Line(kind, tuple(inputs), results, given))
        return results

    def constant(self, array: Array, name: str) -> str:
        """A constant of the model; small ones that are equal are one, called after the first."""
        small = array.nbytes <= SHARED
        content = (array.dtype, array.shape, array.tobytes()) if small else None
        if content in self._shared:
            return self._shared[content]
        chosen = unique(name, self._taken)
        self.constants[chosen] = array
        if content is not None:
            self._shared[content] = chosen
        return chosen

    def fresh(self, name: str) -> str:
        """The name, or with a number behind it where it is taken."""
        return unique(name, self._taken)

    def rename(self, since: int, old: str, new: str) -> None:
        """Give a result of one of the lines from `since` on another name."""
        for line in self.lines[since:]:
            line.inputs = tuple(new if name == old else name for name in line.inputs)
            line.outputs = tuple(new if name == old else name for name in line.outputs)

    def needed(self, wanted: Iterable[str]) -> list[Line]:
        """The lines that some values depend on; the constants of others are dropped."""
        used, kept = set(wanted), []
        for line in reversed(self.lines):
            if used.intersection(line.outputs):
                kept.append(line)
                used.update(line.inputs)
        self.constants = {name: a for name, a in self.constants.items() if name in used}
        return kept[::-1]

    def extents(self, dims: Sequence[Dim], stem: str) -> str:
        """A list of extents, i64 [len(dims)]: a constant, or computed where some are symbolic."""
        check_integers(*dims)
        if all(isinstance(dim, int) for dim in dims):
            return self.constant(np.array(dims, np.int64), f"{stem}.shape")
        parts = [self._extent(dim, stem) for dim in dims]
        if len(parts) == 1:
            return parts[0]
        return self.line("Concat", parts, stem, axis=0)[0]

    def _extent(self, dim: Dim, stem: str) -> str:
        """One extent, i64 [1]."""
        if isinstance(dim, int):
            return self.constant(np.array([dim], np.int64), f"{stem}.extent")
        if dim not in self._extents:
            self._extents[dim] = self._sum(dim)
        return self._extents[dim]

    def _sum(self, dim: Sym) -> str:
        stem, total = str(dim), ""
        for atoms, factor in dim.terms:
            factors = [self._atom(atom) for atom in atoms]
            if factor != 1 or not atoms:
                factors.append(self._extent(factor, stem))
            term = factors[0]
            for other in factors[1:]:
                (term,) = self.line("Mul", (term, other), stem)
            total = self.line("Add", (total, term), stem)[0] if total else term
        return total

    def _atom(self, atom: str | Quotient) -> str:
        """A size that is the extent of an input, or a quotient rounded down."""
        if isinstance(atom, Quotient):
            stem = str(atom)
            above, below = self._extent(atom.numerator, stem), self._extent(atom.divisor, stem)
            (rest,) = self.line("Mod", (above, below), stem)  # what Div rounds is not specified
            (whole,) = self.line("Sub", (above, rest), stem)
            return self.line("Div", (whole, below), stem)[0]
        for name, type in self.inputs.items():
            for axis, extent in enumerate(type.shape):
                if isinstance(extent, Sym) and str(extent) == atom:
                    return self.line("Shape", (name,), atom, start=axis, end=axis + 1)[0]
        raise NoFormError(f"no input has the extent {atom} itself")


def check_integers(*values: object) -> None:
    """NoFormError for numbers that ONNX, whose integers have 64 bits, cannot store."""
    for value in values:
        if isinstance(value, int) and abs(value) > LARGEST:
            raise NoFormError("a number is beyond the integers of 64 bits", "use smaller sizes")
