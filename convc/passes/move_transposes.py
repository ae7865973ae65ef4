"""Transposes and reshapes go down the graph, to where they meet others and cancel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

import ir
from convc.passes.changes import Changes
from ir.ops import (
    Concat,
    LogSoftmax,
    Pad,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReluGrad,
    Reshape,
    Slice,
    Softmax,
    Sum,
    Transpose,
)
from ir.ops.pointwise import Broadcasting, Unary

Move = Transpose | Reshape
T = TypeVar("T")
MATCHING = (Unary, Broadcasting, ReluGrad)  # of elements that stand in the same place
REDUCTIONS = (Sum, ReduceMax, ReduceMin, ReduceProd)
PASSED = (*MATCHING, *REDUCTIONS, Concat, LogSoftmax, Pad, Slice, Softmax)


def move_transposes(graph: ir.Graph) -> ir.Graph:
    """What can be computed before a transpose or reshape is; they come after it, one for what were
    several in a row, none where these cancel. Convolutions meet what finishes them again."""
    moved = _moved(graph)
    while moved is not graph:
        graph, moved = moved, _moved(moved)
    return graph


def _moved(graph: ir.Graph) -> ir.Graph:
    """Every move past as many ops as it can, but for ops after which there would be more of them:
    those stay where they are, until no more bytes are transposed than before."""
    barred: set[str] = set()
    while True:
        draft = _Draft(graph, barred)
        for node in graph.nodes:
            draft.take(node)
        if not draft.passed:
            return graph
        moved = draft.finished()
        if _carried(moved) <= _carried(graph):
            return moved
        if draft.late <= barred:
            return graph
        barred |= draft.late


def _carried(graph: ir.Graph) -> int:
    """Bytes that transposes write."""
    written = (node.name for node in graph.nodes if isinstance(node.op, Transpose))
    return sum(graph.types[name].static_nbytes for name in written)


@dataclass(frozen=True)
class _Moved:
    """What is ``move`` of a value ``source``, whose type is given too; its name once it is made."""

    name: str
    source: str
    type: ir.TensorType
    move: Move

    @property
    def same(self) -> bool:
        """Whether nothing moves."""
        if isinstance(self.move, Reshape):
            return self.move.shape == self.type.shape
        return list(self.move.perm) == sorted(self.move.perm)


class _Draft:
    """The graph in the making. What is only moved waits until somebody needs it as it is.

    ``late`` are the ops whose results were transposed after all; ``barred`` those not to pass.
    """

    def __init__(self, graph: ir.Graph, barred: Collection[str]) -> None:
        self.graph, self.barred = graph, barred
        self.late: set[str] = set()
        self.new = Changes(graph)  # names and weights
        self.nodes: list[ir.Node] = []
        self.waiting: dict[str, _Moved] = {}
        self.renamed: dict[str, str] = {}
        self.weights: dict[tuple[str, Move], tuple[str, ir.TensorType]] = {}  # moved back
        self.passed = False

    def take(self, node: ir.Node) -> None:
        if isinstance(node.op, Transpose | Reshape):
            self._wait(node.name, self._after(node.inputs[0], node.op, node.name))
        elif not self._pass(node):
            inputs = tuple(map(self._now, node.inputs))
            self.nodes.append(node if inputs == node.inputs else replace(node, inputs=inputs))

    def finished(self) -> ir.Graph:
        outputs = {name: self._now(value) for name, value in self.graph.outputs.items()}
        weights, nodes = {**self.graph.weights, **self.new.weights}, tuple(self.nodes)
        return ir.dead_code(self.graph.replace(weights=weights, nodes=nodes, outputs=outputs))

    def _wait(self, value: str, moved: _Moved) -> None:
        if moved.same:
            self.renamed[value] = moved.source
        else:
            self.waiting[value] = moved

    def _now(self, value: str) -> str:
        """The name of a value, which is moved now if it waits."""
        moved = self.waiting.pop(value, None)
        if moved is not None:
            if moved.name != value and isinstance(moved.move, Transpose):
                self.late.add(value)
            self.nodes.append(ir.Node(moved.move, (moved.source,), (moved.name,)))
            self.renamed[value] = moved.name
        return self.renamed.get(value, value)

    def _after(self, value: str, move: Move, name: str) -> _Moved:
        """A move of a value, which may wait for one of its kind."""
        before = self.waiting.get(value)
        if before is not None and isinstance(move, Reshape) and isinstance(before.move, Reshape):
            return replace(before, name=name, move=move)
        if (
            before is not None
            and isinstance(move, Transpose)
            and isinstance(before.move, Transpose)
        ):
            perm = tuple(before.move.perm[axis] for axis in move.perm)
            return replace(before, name=name, move=Transpose(perm))
        return _Moved(name, self._now(value), self.graph.types[value], move)

    def _pass(self, node: ir.Node) -> bool:
        """Compute a node from what its operands are moved from, if it can be; its result waits."""
        waiting = [self.waiting[value] for value in node.inputs if value in self.waiting]
        if not waiting or node.name in self.barred or not all(map(self._free, node.inputs)):
            return False
        past, operands = _past(node.op, waiting[0].move), self._operands(node, waiting[0])
        if past is None or operands is None:
            return False
        op, move = past
        names, types = zip(*operands, strict=True)
        try:
            (type,) = op.infer(*types)
            fits = move.infer(type) == (self.graph.types[node.name],)
        except ir.ShapeError:  # a reshape of something else
            return False
        if fits:
            self.nodes.append(ir.Node(op, names, (node.name,)))
            name = self.new.fresh(f"{node.name}.{move.name}")
            self._wait(node.name, _Moved(name, node.name, type, move))
            self.passed = True
        return fits

    def _free(self, value: str) -> bool:
        """Whether a value need not wait, or nobody but ops that can be passed reads it."""
        readers = self.graph.consumers(value)
        passing = all(isinstance(each.op, (*PASSED, Transpose, Reshape)) for each in readers)
        return value not in self.waiting or (passing and value not in self.graph.outputs.values())

    def _operands(self, node: ir.Node, like: _Moved) -> list[tuple[str, ir.TensorType]] | None:
        """What the operands are moved from, if all of them are moved ``like`` this one, are single
        numbers, or are weights that can be moved back."""
        found = [self._operand(value, like) for value in node.inputs]
        known = [each for each in found if each is not None]
        return known if len(known) == len(found) else None

    def _operand(self, value: str, like: _Moved) -> tuple[str, ir.TensorType] | None:
        moved = self.waiting.get(value)
        if moved is not None:
            alike = isinstance(like.move, Transpose) or moved.type.shape == like.type.shape
            return (moved.source, moved.type) if moved.move == like.move and alike else None
        name, type = self.renamed.get(value, value), self.graph.types[value]
        if type.size == 1 and type.rank <= like.type.rank:
            return name, type
        array = self.graph.weights.get(value)
        if array is None or not isinstance(like.move, Transpose) or array.ndim > like.type.rank:
            return None
        if (value, like.move) not in self.weights:
            full = array.reshape((1,) * (like.type.rank - array.ndim) + array.shape)
            back = np.ascontiguousarray(np.transpose(full, _back(like.move, range(full.ndim))))
            name = self.new.weight(f"{value}.transpose", back)
            self.weights[value, like.move] = name, ir.TensorType.of(back)
        return self.weights[value, like.move]


def _past(op: ir.Op, move: Move) -> tuple[ir.Op, Move] | None:
    """The op that, before the move, computes what comes after it; and the move that remains."""
    if isinstance(op, MATCHING):
        return op, move
    if isinstance(move, Reshape):
        return None
    if isinstance(op, Concat | Softmax | LogSoftmax):
        return replace(op, axis=move.perm[op.axis]), move
    if isinstance(op, Slice):
        starts, sizes, steps = _back(move, op.starts), _back(move, op.sizes), _back(move, op.steps)
        return Slice(starts, sizes, steps), move
    if isinstance(op, Pad):
        return Pad(_back(move, op.pads), _back(move, op.interior), op.value), move
    if isinstance(op, REDUCTIONS):
        left = [source for axis, source in enumerate(move.perm) if axis not in op.axes]
        axes = tuple(sorted(move.perm[axis] for axis in op.axes))
        return replace(op, axes=axes), Transpose(tuple(map(sorted(left).index, left)))
    return None


def _back(move: Transpose, entries: Sequence[T]) -> tuple[T, ...]:
    """What is said of the axes of a transposed value, in the order of the axes before."""
    return tuple(entries[move.perm.index(axis)] for axis in range(len(move.perm)))
