"""Run examples in memory that ends, or starts, at a page nobody may touch.

``python -m tests.guard_pages avx2`` prints the name of each case before it runs; an access
outside a buffer kills the process there.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import convc
import ir
from convc.backend.target import available, target_named
from convc.program import Slot
from convc.train.lenet import lenet, with_loss
from ir.types import Array
from tests.examples import applicable, data, examples, graph_of, with_constants
from tests.loops_runner import launch_all, memory, natively, undefined, unwritten

NONE, READ, WRITE = 0, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)


class GuardedMemory:
    """Arrays between two inaccessible pages, flush with the second or with the first."""

    def __init__(self, at_end: bool) -> None:
        self.at_end = at_end
        self.maps: list[tuple[mmap.mmap, int, int]] = []

    def allocate(self, slot: Slot) -> Array:
        """An array for a slot, filled with what no kernel may depend on."""
        return self.place(unwritten(slot))

    def scratch(self, nbytes: int) -> Array:
        """Memory for large locals."""
        return self.place(undefined(nbytes))

    def place(self, contents: Array) -> Array:
        """A guarded copy."""
        room = max(-(-contents.nbytes // PAGE), 1) * PAGE
        mapped = mmap.mmap(-1, room + 2 * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapped)) + PAGE
        self.maps.append((mapped, start, room))
        protect(start - PAGE, PAGE, NONE)
        protect(start + room, PAGE, NONE)
        offset = PAGE + (room - contents.nbytes if self.at_end else 0)
        array = np.ndarray(contents.shape, contents.dtype, mapped, offset)
        array[:] = contents
        return array

    def freeze(self, number: int) -> None:
        """Make the array that was allocated as this number read-only."""
        _, start, room = self.maps[number]
        protect(start, room, READ)

    def free(self) -> None:
        """Give the memory back."""
        for _, start, room in self.maps:
            protect(start - PAGE, room + 2 * PAGE, WRITE)
        self.maps.clear()


def protect(address: int, nbytes: int, access: int) -> None:
    """mprotect."""
    if LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), access):
        raise OSError(ctypes.get_errno(), "mprotect")


@dataclass(frozen=True)
class Case:
    """A graph to run on inputs; the algorithm of its node ``y``, or the compiler's choice."""

    name: str
    graph: ir.Graph
    inputs: dict[str, Array]
    algorithm: str | None = None


def check(case: Case, target: str) -> convc.Model:
    """Run in guarded memory; every output is written, and only what is NaN is NaN.

    The model keeps its kernels from being compiled again.
    """
    forced = {"y": case.algorithm} if case.algorithm else {}
    model = convc.compile(case.graph, target=target, algorithms=forced, passes=())
    plan = model.stages().plan
    want = ir.interpret(case.graph, case.inputs)
    for at_end in (True, False):
        guarded = GuardedMemory(at_end)
        slots = memory(plan, case.inputs, guarded.allocate)
        for slot in plan.program.slots:
            if slot.role in ("input", "constant"):
                guarded.freeze(slot.number)
        launch = natively(target_named(target), scratch=guarded.scratch)
        got = launch_all(plan, slots, launch)
        for name, array in got.items():
            assert np.array_equal(np.isnan(array), np.isnan(want[name].reshape(-1))), name
        del slots, got
        guarded.free()
    return model


def cases(target: str) -> Iterator[Case]:
    """Every example by every algorithm, and with all operands but the first constant; a network."""
    for name, example in examples():
        inputs, graph = data(example), graph_of(example)
        for algorithm in applicable(graph, target):
            yield Case(f"{name}, {algorithm}", graph, inputs, algorithm)
        if len(inputs) > 1:
            first = {"in0": inputs["in0"]}
            yield Case(f"{name}, constants", with_constants(graph, inputs), first)
        if target == available()[-1]:  # elsewhere they are as float32 on a narrower target
            wide = graph_of(example, "float64")
            yield Case(f"{name}, float64", wide, data(example, "float64"))
    yield Case("network", *network())


def network() -> tuple[ir.Graph, dict[str, Array]]:
    """A small network with its gradients, batch 3."""
    graph = with_loss(lenet(channels=(5, 17), hidden=33)).bind({"N": 3})
    graph = ir.vjp(graph, ["x", *graph.weights])
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal(type.static_shape).astype(type.dtype.numpy)
              for name, type in graph.inputs.items()}  # fmt: skip
    return graph, inputs | {"labels": np.array([0, 9, 4])}


def trespass(where: str) -> None:
    """Touch what is guarded, which must be fatal."""
    guarded = GuardedMemory(at_end=where == "after")
    array = guarded.allocate(Slot(0, "x", "f32", 8, "temporary"))
    address = array.ctypes.data
    if where == "after":
        ctypes.string_at(address + array.nbytes, 1)
    elif where == "before":
        ctypes.string_at(address - 1, 1)
    else:
        guarded.freeze(0)
        ctypes.memset(address, 0, 1)


def main(target: str) -> None:
    """Check all cases on one target; a model lives until the next one, which may share code."""
    kept: list[convc.Model] = []
    for case in cases(target):
        print(case.name, flush=True)
        kept[:] = [check(case, target)]
    print("all held", flush=True)


if __name__ == "__main__":
    trespass(sys.argv[2]) if sys.argv[1] == "trespass" else main(sys.argv[1])
