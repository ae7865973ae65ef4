"""Sums of products over labelled axes, as transpositions and products of matrices."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeAlias

import ir
from convc.frontends.onnx.call import Call, Emit, fixed
from convc.frontends.onnx.errors import NodeError
from ir.dims import Dim, product

Labels: TypeAlias = tuple[str, ...]
TERM = re.compile(r"([A-Za-z]*)(?:(\.\.\.)([A-Za-z]*))?")


class Term(NamedTuple):
    """A value and the label of each of its axes."""

    value: ir.Value
    labels: Labels

    @property
    def sizes(self) -> dict[str, Dim]:
        """The extents by label."""
        return dict(zip(self.labels, self.value.shape, strict=True))


def _einsum(n: Call) -> ir.Value:
    """Operands are multiplied one after the other; a label without further use is summed over."""
    ranks = [len(n.shape(number)) for number in range(n.count)]
    labels, wanted = _read(n.attributes.text("equation", ""), ranks)
    made = _diagonals(n.b, n.x(0), labels[0])
    for number in range(1, n.count):
        used = set(wanted).union(*labels[number + 1 :])
        made = _multiplied(n.b, made, _diagonals(n.b, n.x(number), labels[number]), used)
    return _arranged(n.b, _summed(n.b, made, wanted), wanted).value


def _read(equation: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """The labels of the operands and of the result; axes of an ellipsis are ...0 from the right."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise NodeError(f"equation '{equation}' is of {len(terms)} operands, not of {len(ranks)}")
    operands = [_labels(term, rank) for term, rank in zip(terms, ranks, strict=True)]
    listed = [label for labels in operands for label in labels]
    many = sorted({label for label in listed if "." in label}, key=_place, reverse=True)
    if not arrow:
        single = sorted(label for label in listed if "." not in label and listed.count(label) == 1)
        return operands, (*many, *single)
    wanted = _labels(right, len(right.replace("...", "")) + len(many) * ("..." in right))
    if len(set(wanted)) < len(wanted):
        raise NodeError(f"'{right}' in the equation has a label twice, which a result cannot")
    if missing := {*wanted, *many} - ({*wanted} & {*listed}):
        label = min(missing)[:3]
        raise NodeError(f"'{label}' does not stand on both sides of equation '{equation}'")
    return operands, wanted


def _place(label: str) -> int:
    return int(label.removeprefix("..."))


def _labels(term: str, rank: int) -> Labels:
    """The labels of one operand, or of the result."""
    found = TERM.fullmatch(term)
    if found is None:
        raise NodeError(f"'{term}' in the equation must be letters with at most one '...'")
    before, dots, after = found[1], found[2], found[3] or ""
    rest = rank - len(before) - len(after)
    if rest < 0 or (rest and not dots):
        raise NodeError(f"'{term}' in the equation does not label {rank} axes")
    return (*before, *(f"...{number}" for number in reversed(range(rest))), *after)


def _diagonals(b: ir.Builder, x: ir.Value, labels: Labels) -> Term:
    """An operand with each label once: axes of the same label are walked along together."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            pair = first, labels.index(label, first + 1)
            rows, columns = fixed([x.shape[axis] for axis in pair])
            if rows != columns:
                raise _unequal(label, rows, columns)
            rest = [axis for axis in range(len(labels)) if axis not in pair]
            x = b.transpose(x, (*rest, *pair))
            x = b.reshape(x, (*x.shape[:-2], rows * rows))
            x = b.slice(x, {len(rest): (0, rows * rows, rows + 1)})
            labels = (*(labels[axis] for axis in rest), label)
    return Term(x, labels)


def _multiplied(b: ir.Builder, x: Term, y: Term, used: Collection[str]) -> Term:
    """The product of two, summed over labels that are not used any more."""
    x, y = _broadcast(b, x, y), _broadcast(b, y, x)
    x, y = _summed(b, x, {*used, *y.labels}), _summed(b, y, {*used, *x.labels})
    shared = [label for label in x.labels if label in y.labels]
    rows = [label for label in x.labels if label not in shared]
    columns = [label for label in y.labels if label not in shared]
    gone = [label for label in shared if label not in used]
    if not gone:
        return _elementwise(b, x, y, columns)
    each = [label for label in shared if label in used]
    left, turned = _matrices(b, x, each, rows, gone)
    right, turned_too = _matrices(b, y, each, gone, columns)
    made, sizes = b.matmul(left, right, turned, turned_too), {**x.sizes, **y.sizes}
    labels = (*each, *rows, *columns)
    return Term(_reshaped(b, made, [sizes[label] for label in labels]), labels)


def _broadcast(b: ir.Builder, x: Term, other: Term) -> Term:
    """The one without the axes of extent 1 for which the other one has more."""
    sizes, others = x.sizes, other.sizes
    differ = {label for label in sizes if label in others and sizes[label] != others[label]}
    for label in differ:
        if 1 not in (sizes[label], others[label]):
            raise _unequal(label, sizes[label], others[label])
    left = tuple(label for label in x.labels if label not in differ or sizes[label] != 1)
    return Term(_reshaped(b, x.value, [sizes[label] for label in left]), left)


def _unequal(label: str, *extents: Dim) -> NodeError:
    return NodeError(f"the axes labelled '{label}' have the extents {extents[0]} and {extents[1]}")


def _elementwise(b: ir.Builder, x: Term, y: Term, columns: Sequence[str]) -> Term:
    """The product without a sum: the axes that only one has are broadcast."""
    labels, sizes = (*x.labels, *columns), y.sizes
    left = _reshaped(b, x.value, (*x.value.shape, *(1 for _ in columns)))
    value = _arranged(b, y, tuple(label for label in labels if label in sizes)).value
    right = _reshaped(b, value, [sizes.get(label, 1) for label in labels])
    return Term(b.mul(left, right), labels)


def _matrices(
    b: ir.Builder, x: Term, each: Sequence[str], rows: Sequence[str], columns: Sequence[str]
) -> tuple[ir.Value, bool]:
    """A matrix for each element of some axes; transposed where it lies in memory so."""
    turned = x.labels == (*each, *columns, *rows) != (*each, *rows, *columns)
    groups = (each, columns, rows) if turned else (each, rows, columns)
    value = _arranged(b, x, tuple(label for group in groups for label in group)).value
    sizes = x.sizes
    shape = [product(sizes[label] for label in group) for group in groups]
    return _reshaped(b, value, shape if each else shape[1:]), turned


def _summed(b: ir.Builder, x: Term, used: Collection[str]) -> Term:
    gone = tuple(axis for axis, label in enumerate(x.labels) if label not in used)
    left = tuple(label for label in x.labels if label in used)
    return Term(b.sum(x.value, gone), left) if gone else x


def _arranged(b: ir.Builder, x: Term, labels: Labels) -> Term:
    """The same with its axes in another order."""
    if x.labels == labels:
        return x
    return Term(b.transpose(x.value, [x.labels.index(label) for label in labels]), labels)


def _reshaped(b: ir.Builder, value: ir.Value, shape: Sequence[Dim]) -> ir.Value:
    return value if value.shape == tuple(shape) else b.reshape(value, shape)


SUMS_OF_PRODUCTS: dict[str, Emit] = {"Einsum": _einsum}
