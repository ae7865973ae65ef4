"""From a graph with chosen algorithms to a program: kernels run in order over slots.

Values are stored in layouts. Each algorithm says which layouts it reads (its wishes); a value is
written once, by its producer, with a halo that covers all of its readers, and converted only for
a reader whose wish that does not meet. Conversions are steps like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any, TypeAlias

import numpy as np

import ir
from convc.algorithms.base import Algorithm, Site, Wish
from convc.algorithms.convert import convert_kernel, copy_kernel
from convc.answers import check_run
from convc.backend.target import Target
from convc.errors import AlgorithmError
from convc.joining import apart, delivered, parts, together
from convc.layout import PLAIN, Layout, covering
from convc.pooling import SWEEP, Pool, pool_of
from convc.program import Program, Role, Slot, Step, Stored
from ir.loops import Kernel
from ir.loops.nodes import Scalar

Kernels: TypeAlias = "dict[tuple[object, ...], Kernel]"  # by what they are made of


class Lowering:
    """The state of lowering one static graph; algorithms call it to read, write and run.

    ``kernels``: those made before, for the same target. ``alone``: nodes that are not to be done
    by others.
    """

    def __init__(
        self, graph: ir.Graph, choices: Mapping[str, Algorithm], target: Target,
        kernels: Kernels | None = None, alone: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.alone = alone
        self.graph, self.choices, self.target = graph, choices, target
        self.slots: list[Slot] = []
        self.steps: list[Step] = []
        self.written: set[int] = set()  # slots that are no part of others
        self.stored: dict[str, Stored] = {}
        self.derived: dict[tuple[object, ...], Stored] = {}
        self.copies: dict[str, list[int]] = {}  # of values, in other layouts
        self.kernels: Kernels = {} if kernels is None else kernels
        self.wishes = self._all_wishes()
        self.node: ir.Node | None = None
        self.direct_outputs = delivered(graph)
        self.apart = apart(graph)
        self.parts = parts(graph, self.apart, target)
        self.together = together(self.parts)
        self.wholes: dict[tuple[str, Layout], Stored] = {}
        self.pooled: dict[str, str] = {}  # values that are not stored, to what a pool makes of them

    def program(self) -> Program:
        """Lower every node in order."""
        inputs = {name: self._given(name, "input") for name in self.graph.inputs}
        for name, array in self.graph.weights.items():
            self._given(name, "constant", array)
        for node in self.graph.nodes:
            self.node = node
            if not self.pooled.keys().isdisjoint(node.inputs):
                continue  # it is written already
            if any(self.graph.types[value].size for value in node.outputs):
                self._lower(node, self.choices[node.name])
            else:  # nothing to compute
                for number in range(len(node.outputs)):
                    self.write(result=number)
        outputs = {name: self._deliver(name, value) for name, value in self.graph.outputs.items()}
        return Program(tuple(self.slots), tuple(self.steps), inputs, outputs)

    def _lower(self, node: ir.Node, algorithm: Algorithm) -> None:
        """Let an algorithm append its steps; ``AlgorithmError`` where they leave out a result."""
        try:
            algorithm.lower(Site.of(self.graph, node, self.target), self)
        except Exception as error:
            error.add_note(f"raised by the algorithm {algorithm.name!r} for {node}")
            raise
        for output in node.outputs:
            value = self.pooled.get(output, output)
            if not self._is_written(value):
                hint = "lower has to run a kernel that writes what into.write gives for each result"
                left = f"the algorithm {algorithm.name!r} leaves its result {value!r}"
                type = self.graph.types[value]
                raise AlgorithmError(f"{node}: {left} ({type}) unwritten; {hint}")

    def _is_written(self, value: str) -> bool:
        """Whether the steps so far write a value, or it is what was given."""
        stored = self.stored.get(value)
        if stored is None:
            return False
        whole = self._whole(stored.slot)
        return whole in self.written or self.slots[whole].role in ("input", "constant")

    # -- what algorithms call --------------------------------------------------------------

    def block(self, operand: int) -> int:
        """The channel block in which an operand of the current node was produced."""
        assert self.node is not None
        return self.stored[self.node.inputs[operand]].layout.block

    def read(self, operand: int, block: int | None = None) -> Stored:
        """An operand of the current node as its algorithm wished, in just this block if given."""
        assert self.node is not None
        value = self.node.inputs[operand]
        stored = self.stored[value]
        wish = self.wish(self.node, operand)
        if block is not None:
            wish = replace(wish, blocks=(block,))
        if wish.accepts(stored.layout):
            return stored
        return self._converted(value, self._layout(value, wish, stored.layout.block))

    def write(self, block: int | None = None, result: int = 0) -> Stored:
        """Room for a result of the current node: plain, or an image in blocks of channels with
        the halo that its readers wish."""
        assert self.node is not None
        return self._write(self.node.outputs[result], block)

    def pool(self) -> Pool | None:
        """The pool that the current node may do as it stores: see ``write_pooled``."""
        found = self._pool()
        return None if found is None else found[1]

    def write_pooled(self, block: int) -> Stored:
        """Room for what the ``pool`` makes of the result of the current node, instead of that."""
        assert self.node is not None
        found = self._pool()
        if found is None:
            raise AlgorithmError(f"{self.node}: no pool to be done as it is stored; ask for pool()")
        value, _ = found
        self.pooled[self.node.name] = value
        return self._write(value, block)

    def _pool(self) -> tuple[str, Pool] | None:
        assert self.node is not None
        found = pool_of(self.graph, self.node)
        alone = found is None or found[0] in self.alone or self.choices[found[0]].name != SWEEP
        return None if alone else found

    def _write(self, value: str, block: int | None) -> Stored:
        type = self.graph.types[value]
        layout = PLAIN if block is None else Layout(block, self._halo(value, block))
        name = self.direct_outputs.get(value) if layout.plain else None
        role: Role = "output" if name else "temporary"
        stored = self._joined(value, layout) or self._room(name or value, role, type, layout)
        self.stored[value] = stored
        return stored

    def alias(self, operand: int, result: int = 0) -> None:
        """The result is the operand's plain memory under another type."""
        assert self.node is not None
        value = self.node.outputs[result]
        self.stored[value] = Stored(self.read(operand).slot, self.graph.types[value])

    def view(self, operand: int, start: int) -> bool:
        """Make the result what lies in the operand from an element on, in its layout, if it can."""
        assert self.node is not None
        value, source = self.node.name, self.stored[self.node.inputs[operand]]
        fixed = value in self.apart or value in self.together
        if fixed or self.slots[source.slot].role != "temporary":
            return False
        part = source.slot, start
        type = self.graph.types[value]
        self.stored[value] = self._room(value, "temporary", type, source.layout, part=part)
        return True

    def lies_in(self, part: Stored, whole: Stored) -> bool:
        """Whether the operand of a concatenation was written as a part of its result."""
        own = self.slots[part.slot].part
        return own is not None and own[0] == whole.slot

    def temporary(self, name: str, dtype: Scalar, size: int) -> Stored:
        """Scratch memory of so many elements."""
        type = ir.TensorType(ir.DType(dtype), (size,))
        return self._room(name, "temporary", type, PLAIN)

    def table(self, name: str, array: np.ndarray[Any, Any]) -> Stored:
        """A constant computed at compile time."""
        type = ir.TensorType.of(array)
        return self._room(name, "constant", type, PLAIN, np.ascontiguousarray(array))

    def derive(
        self, operand: int, key: tuple[object, ...], make: Callable[[Stored], Stored]
    ) -> Stored:
        """Something computed from an operand alone (packed weights, say), made once per key."""
        assert self.node is not None
        full = (self.node.inputs[operand], *key)
        if full not in self.derived:
            self.derived[full] = make(self.read(operand))
        return self.derived[full]

    def is_constant(self, operand: int) -> bool:
        """Whether an operand is a weight: what derives from it costs nothing at run time."""
        assert self.node is not None
        return self.node.inputs[operand] in self.graph.weights

    def kernel(self, key: object, stored: Sequence[Stored], make: Callable[[], Kernel]) -> Kernel:
        """The kernel over these values that ``key`` describes, made once for nodes alike."""
        full = (key, *((value.type, value.layout) for value in stored))
        if full not in self.kernels:
            self.kernels[full] = make()
        return self.kernels[full]

    def run(
        self, kernel: Kernel, *stored: Stored, label: str = "", over: Sequence[Stored] = ()
    ) -> None:
        """Append a step; the stored values stand for the kernel's parameters, in order.

        ``over``: operands that a result of their type and layout may be written over, as the
        kernel stores each of its elements once, from that element of the operand and no other.
        """
        if not kernel.body:
            return
        slots = tuple(value.slot for value in stored)
        name = self.node.name if self.node else ""
        if self.node is not None:
            used = [self.slots[number] for number in slots]
            check_run(self.node, self.choices[name], kernel, used, self._operands(self.node))
        chosen = label or (self.choices[name].name if self.node else "copy")
        places = range(len(stored))
        pairs = tuple(
            (operand, result)
            for operand, result in product(places, places)
            if stored[operand] in over
            and kernel.params[result].writable
            and stored[operand].type == stored[result].type
            and stored[operand].layout == stored[result].layout
        )
        step = Step(kernel, slots, name, chosen, self._work(kernel, label), pairs)
        self.steps.append(step)
        self.written.update(map(self._whole, step.writes))

    def _operands(self, node: ir.Node) -> dict[int, str]:
        """The slots where the operands of a node lie, converted ones too, with their names."""
        stored = [value for value in node.inputs if value not in self.pooled]
        copies = {slot: value for value in stored for slot in self.copies.get(value, ())}
        return copies | {self.stored[value].slot: value for value in stored}

    # -- layouts ---------------------------------------------------------------------------

    def wish(self, node: ir.Node, operand: int) -> Wish:
        return self.wishes[node.name][operand]

    def _all_wishes(self) -> dict[str, tuple[Wish, ...]]:
        graph = self.graph
        return {
            node.name: self.choices[node.name].wishes(Site.of(graph, node, self.target))
            for node in graph.nodes
        }

    def _halo(self, value: str, block: int) -> tuple[tuple[int, int], ...]:
        """The union of the halos wished by the readers that take this block, of the value or of
        what lies in the same memory."""
        halo: tuple[tuple[int, int], ...] = ()
        for each in self.together.get(value, (value,)):
            for node in self.graph.consumers(each):
                for operand, name in enumerate(node.inputs):
                    wish = self.wish(node, operand)
                    if name == each and block in wish.blocks and not wish.exact:
                        halo = covering(halo, wish.halo)
        return halo if any(map(any, halo)) else ()

    def _layout(self, value: str, wish: Wish, current: int) -> Layout:
        if wish.exact:
            return Layout(wish.blocks[0], wish.halo)
        block = current if current in wish.blocks else wish.blocks[0]
        return Layout(block, self._halo(value, block))

    def _converted(self, value: str, layout: Layout) -> Stored:
        key = (value, "layout", layout)
        if key not in self.derived:
            source = self.stored[value]
            room = self._room(f"{value}.{layout}", "temporary", source.type, layout)
            kernel = self.kernel("convert", (source, room),
                                 lambda: convert_kernel(source, room, self.target))  # fmt: skip
            self.run(kernel, source, room, label="convert")
            self.derived[key] = room
            self.copies.setdefault(value, []).append(room.slot)
        return self.derived[key]

    # -- slots -----------------------------------------------------------------------------

    def _joined(self, value: str, layout: Layout) -> Stored | None:
        """Room for a value that has parts, or is one, once one of them is written."""
        if (value, layout) in self.wholes:
            return self.wholes[value, layout]
        part = self.parts.get(value)
        if part is None or not part.fits(layout):
            return None
        type = self.graph.types[part.whole]
        whole = self._joined(part.whole, layout)
        whole = whole or self._room(part.whole, "temporary", type, layout)
        self.wholes[part.whole, layout] = whole
        _, _, *plane = layout.physical(type.static_shape)
        start = part.channels // layout.block * prod(plane)
        own = whole.slot, start
        return self._room(value, "temporary", self.graph.types[value], layout, part=own)

    def _whole(self, slot: int) -> int:
        """The slot that one lies in, if it is a part, through all the parts of parts."""
        part = self.slots[slot].part
        return slot if part is None else self._whole(part[0])

    def _room(
        self, name: str, role: Role, type: ir.TensorType, layout: Layout,
        data: np.ndarray[Any, Any] | None = None, part: tuple[int, int] | None = None,
    ) -> Stored:  # fmt: skip
        stored = Stored(len(self.slots), type, layout)
        size = layout.size(type.static_shape)
        self.slots.append(Slot(stored.slot, name, stored.dtype, size, role, data, part))
        return stored

    def _given(self, name: str, role: Role, data: np.ndarray[Any, Any] | None = None) -> int:
        stored = self._room(name, role, self.graph.types[name], PLAIN, data)
        self.stored[name] = stored
        return stored.slot

    def _deliver(self, name: str, value: str) -> int:
        """The slot of an output, copied there where its producer did not write it."""
        stored = self.stored[value]
        if self.slots[stored.slot].role == "output" and self.slots[stored.slot].name == name:
            return stored.slot
        producer = self.graph.producer(value)
        self.node = producer
        room = self._room(name, "output", stored.type, PLAIN)
        if stored.layout.plain:
            kernel = copy_kernel(stored.dtype, self.slots[room.slot].size, self.target)
        else:
            kernel = convert_kernel(stored, room, self.target)
        self.run(kernel, stored, room, label="convert" if not stored.layout.plain else "copy")
        return room.slot

    def _work(self, kernel: Kernel, label: str) -> float:
        """Seconds on one thread, roughly: what decides whether a step is worth sharing."""
        assert self.target
        moved = sum(param.size * (8 if param.dtype != "f32" else 4) for param in kernel.params)
        flops = 0
        if self.node is not None and not label:  # conversions and packing only move
            types = (self.graph.types[name] for name in self.node.inputs)
            flops = self.node.op.cost(*types).flops
        return max(moved / 40e9, flops / 200e9)
