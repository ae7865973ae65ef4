"""One plan in memory: its constants, computed, its steps as machine code."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convc.backend.jit import Compiled, compile_kernels
from convc.backend.native import MAXIMUM_ARGUMENTS, sync_bytes
from convc.backend.scratch import scratch_bytes
from convc.backend.target import Target
from convc.errors import CapacityError, Error
from convc.plan import ALIGNMENT, Data, Placed, Plan
from convc.program import Step
from convc.runtime.memory import Bytes, aligned
from convc.runtime.threads import pool

AT_ONCE = 1 << 24  # bytes of weights that are let go together, once they are packed
MAXIMUM_TASKS = 1 << 31  # the runtime counts them in 32 bits


@dataclass(frozen=True)
class Record:
    """A step as the native runtime reads it: where its buffers' addresses stand in the table."""

    kernel: int
    places: Sequence[int]
    tasks: int
    shared: bool


class Code:
    """Records in order, in the words of ``runtime.ll``."""

    def __init__(self, records: Sequence[Record], scratch: int) -> None:
        self.scratch = scratch
        words, arguments = [len(records), scratch], list[int]()
        for record in records:
            words += [record.kernel, len(arguments), len(record.places)]
            words += [record.tasks, record.shared]
            arguments += record.places
        self._words = np.array(words, np.int64)
        self._places = np.array(arguments or [0], np.int64)
        self.program: int = self._words.ctypes.data
        self.arguments: int = self._places.ctypes.data


class Kernels:
    """The machine code of some steps."""

    def __init__(self, steps: Sequence[Step], target: Target) -> None:
        for step in steps:
            if step.kernel.tasks >= MAXIMUM_TASKS:
                raise CapacityError(f"{step.node}: a kernel of {step.kernel.tasks} tasks")
            if len(step.slots) > MAXIMUM_ARGUMENTS:
                raise Error(f"{step.node}: a kernel with {len(step.slots)} buffers; "
                            f"the runtime passes {MAXIMUM_ARGUMENTS}")  # fmt: skip
        distinct = {id(step.kernel): step.kernel for step in steps}
        compiled = dict(zip(distinct, compile_kernels(distinct.values(), target), strict=True))
        self.steps = steps
        self.each: list[Compiled] = [compiled[id(step.kernel)] for step in steps]
        most = max(map(scratch_bytes, distinct.values()), default=0)
        self.scratch = -(-most // ALIGNMENT) * ALIGNMENT

    def records(self, first: int = 1) -> Iterator[Record]:
        """The steps, where the address of slot 0 stands at this place of the table."""
        for step, kernel in zip(self.steps, self.each, strict=True):
            places = [first + slot for slot in step.slots]
            yield Record(kernel.address, places, step.kernel.tasks, step.parallel)

    def seconds(self) -> Iterator[tuple[str, float]]:
        """The kernels by name, with the processor seconds that compiling them took."""
        for step, kernel in zip(self.steps, self.each, strict=True):
            yield step.kernel.name, 0.0 if kernel.cached else kernel.seconds


class Prepared:
    """A plan whose constants are computed, partly from data that go meanwhile (see
    ``Plan.split``)."""

    def __init__(self, plan: Plan, data: Data, target: Target, threads: int) -> None:
        self.plan = plan
        placed = plan.constants.items()
        given = {n: each.slot.data for n, each in placed if each.slot.data is not None}
        self.constants = Constants(plan.constants, plan.constant_bytes, given)
        self.seconds: dict[str, float] = {}
        if plan.prepare:
            self._prepare(data, self._compiled(plan.prepare, target), threads)

    def _compiled(self, steps: Sequence[Step], target: Target) -> Kernels:
        kernels = Kernels(steps, target)
        for name, took in kernels.seconds():
            self.seconds[name] = max(self.seconds.get(name, 0.0), took)
        return kernels

    def _prepare(self, data: Data, kernels: Kernels, threads: int) -> None:
        """Run, once, the steps that derive constants from others; let go of what only they need
        meanwhile."""
        plan = self.plan
        places = 1 + len(plan.program.slots)
        memory = RunMemory(places, kernels.scratch, 0, threads)  # all results are constants
        memory.place(self.constants.addresses)
        passing = Constants(plan.passing, plan.passing_bytes, data)
        memory.place(passing.addresses)
        records = list(kernels.records())
        for together, needed in _batches(plan.prepare, passing.bytes):
            code = Code(records[together], kernels.scratch)
            pool().run(code.program, code.arguments, memory.address, memory.sync, threads)
            for slot in needed:
                del passing.bytes[slot]


class Part(Prepared):
    """A plan whose steps are compiled too."""

    def __init__(self, plan: Plan, data: Data, target: Target, threads: int) -> None:
        super().__init__(plan, data, target, threads)
        self.kernels = self._compiled(plan.steps, target)


def _batches(
    steps: Sequence[Step], passing: Mapping[int, Bytes]
) -> Iterator[tuple[slice, list[int]]]:
    """Steps to run together, as it takes time to wake threads, with the slots that no later step
    needs: not many more bytes than are let go at once."""
    last = {slot: number for number, step in enumerate(steps) for slot in step.slots}
    start, nbytes, needed = 0, 0, list[int]()
    for number, step in enumerate(steps):
        own = [slot for slot in {*step.slots} if last[slot] == number and slot in passing]
        nbytes += sum(passing[slot].size for slot in own)
        needed += own
        if nbytes >= AT_ONCE or step is steps[-1]:
            yield slice(start, number + 1), needed
            start, nbytes, needed = number + 1, 0, []


class RunMemory:
    """What a run needs for itself: addresses, an arena, each thread's scratch, the barrier."""

    def __init__(self, places: int, scratch: int, arena: int, threads: int) -> None:
        self.table = (ctypes.c_int64 * places)()
        self.address = ctypes.addressof(self.table)
        self._sync = aligned(sync_bytes(threads))
        self._sync[:] = 0
        self.sync: int = self._sync.ctypes.data
        self._scratch = aligned(scratch * threads)
        self.scratch: int = self._scratch.ctypes.data
        self.table[0] = self.scratch
        self._arena = aligned(arena)
        self.arena: int = self._arena.ctypes.data

    def place(self, addresses: Mapping[int, int], first: int = 1) -> None:
        """Tell where slots lie; slot 0 has this place in the table."""
        for slot, address in addresses.items():
            self.table[first + slot] = address


class Constants:
    """The bytes of constants by slot: in a memory of their own, large given ones where they are.

    The arrays of a graph never change. They are taken out of ``data``.
    """

    def __init__(self, slots: Mapping[int, Placed], nbytes: int, data: Data) -> None:
        memory = aligned(nbytes)
        self.bytes: dict[int, Bytes] = {}
        for slot, placed in slots.items():
            array = data.pop(slot, None)
            given = None
            if array is not None:
                given = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            if given is not None and placed.in_place:
                self.bytes[slot] = given
                continue
            room = self.bytes[slot] = memory[placed.offset : placed.offset + placed.nbytes]
            if given is not None:
                room[: given.size] = given
        self.addresses = {slot: room.ctypes.data for slot, room in self.bytes.items()}
