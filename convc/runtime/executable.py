"""A plan in memory, ready to run: one native call, no allocation, no Python inside."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convc.backend.jit import compile_kernel
from convc.backend.native import MAXIMUM_ARGUMENTS, sync_bytes
from convc.backend.scratch import scratch_bytes
from convc.backend.target import Target, check_runnable
from convc.errors import CapacityError, Error
from convc.plan import Placed, Plan
from convc.program import Step
from convc.runtime.memory import Bytes, aligned
from convc.runtime.threads import pool, runtime_code
from ir.loops.interpreter import NUMPY

MAXIMUM_TASKS = 1 << 31  # the runtime counts them in 32 bits
SMALL = 40e-6  # seconds of shareable work below which a run stays on one thread


class Executable:
    """Machine code and constants of one plan. Runs may overlap: each has a context of its own."""

    def __init__(self, plan: Plan, target: Target, threads: int) -> None:
        check_runnable(target)
        self.plan = plan
        shareable = sum(step.work for step in plan.steps if step.parallel)
        self.threads = threads if shareable > SMALL else 1
        self._constants = _Constants(plan.constants, plan.constant_bytes)
        self.compiled: dict[str, float] = {}
        """The kernels by name, with the processor seconds that compiling them took; those that
        came from the cache took none."""
        self._prepare(target, threads)
        self.plan = plan.prepared()
        self._code = self._compile(plan.steps, target)
        self._runtime = runtime_code()
        self._contexts: deque[_Context] = deque()
        self._inputs = tuple(plan.program.inputs.values())
        self._outputs = tuple(plan.program.outputs.values())

    def run(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Run on buffers given by address, in the order of the plan's inputs and outputs.

        The buffers must be contiguous and as large as their slots; nothing is checked here.
        """
        context = self._bound(inputs, outputs)
        code = self._code
        if self.threads == 1:
            self._runtime.run(code.program, code.arguments, context.address)
        else:
            pool().run(code.program, code.arguments, context.address, context.sync, self.threads)
        self._contexts.append(context)

    def allocate(self) -> list[npt.NDArray[Any]]:
        """Flat arrays as large as the output slots."""
        slots = (self.plan.program.slots[number] for number in self._outputs)
        return [np.empty(slot.size, NUMPY[slot.dtype]) for slot in slots]

    def step_calls(
        self, inputs: Sequence[int], outputs: Sequence[int]
    ) -> Iterator[tuple[Step, Callable[[], None]]]:
        """Each step with a call that runs it alone on this thread, for timing; in order."""
        context = self._bound(inputs, outputs)
        for step, code in zip(self.plan.steps, self._code.kernels, strict=True):
            table = (ctypes.c_void_p * len(step.slots))(*(context.table[s + 1] for s in step.slots))
            yield step, _StepCall(code.kernel(), table, step.kernel.tasks, (self, context))

    def _bound(self, inputs: Sequence[int], outputs: Sequence[int]) -> _Context:
        """A context for one run, the slots of inputs and outputs filled in."""
        try:
            context = self._contexts.pop()
        except IndexError:
            context = _Context(self.plan, self._constants, self._code.scratch, self.threads)
        table = context.table
        for slot, address in zip(self._inputs, inputs, strict=True):
            table[slot + 1] = address
        for slot, address in zip(self._outputs, outputs, strict=True):
            table[slot + 1] = address
        return context

    def constant(self, slot: int) -> Bytes:
        """The bytes of a constant, packed as the kernels read it."""
        return self._constants.bytes[slot]

    def _prepare(self, target: Target, threads: int) -> None:
        """Run, once, the steps that derive constants from others."""
        if self.plan.prepare:
            code = self._compile(self.plan.prepare, target)
            context = _Context(self.plan, self._constants, code.scratch, threads)
            passing = _Constants(self.plan.passing, self.plan.passing_bytes)
            context.place(passing)
            pool().run(code.program, code.arguments, context.address, context.sync, threads)

    def _compile(self, steps: Sequence[Step], target: Target) -> _Code:
        code = _Code(steps, target)
        for step, kernel in zip(steps, code.kernels, strict=True):
            before = self.compiled.get(step.kernel.name, 0.0)
            took = 0.0 if kernel.cached else kernel.seconds
            self.compiled[step.kernel.name] = max(before, took)
        return code


@dataclass(frozen=True)
class _StepCall:
    """One step on its own; keeps alive what its addresses point to."""

    kernel: Callable[..., None]
    table: Any
    tasks: int
    owner: tuple[Executable, _Context]

    def __call__(self) -> None:
        self.kernel(self.table, 0, self.tasks, self.owner[1].table[0])


class _Code:
    """Steps as the native runtime reads them (see ``runtime.ll``)."""

    def __init__(self, steps: Sequence[Step], target: Target) -> None:
        distinct = {id(step.kernel): step.kernel for step in steps}
        compiled = {key: compile_kernel(kernel, target) for key, kernel in distinct.items()}
        self.kernels = [compiled[id(step.kernel)] for step in steps]
        self.scratch = max((scratch_bytes(step.kernel) for step in steps), default=0)
        words, arguments = [len(steps), self.scratch], list[int]()
        for number, step in enumerate(steps):
            if step.kernel.tasks >= MAXIMUM_TASKS:
                raise CapacityError(f"{step.node}: a kernel of {step.kernel.tasks} tasks")
            if len(step.slots) > MAXIMUM_ARGUMENTS:
                raise Error(f"{step.node}: a kernel with {len(step.slots)} buffers; "
                            f"the runtime passes {MAXIMUM_ARGUMENTS}")  # fmt: skip
            words += [self.kernels[number].address, len(arguments), len(step.slots)]
            words += [step.kernel.tasks, step.parallel]
            arguments += [slot + 1 for slot in step.slots]
        self._words = np.array(words, np.int64)
        self._slots = np.array(arguments or [0], np.int64)
        self.program: int = self._words.ctypes.data
        self.arguments: int = self._slots.ctypes.data


class _Constants:
    """The bytes of constants by slot: in a memory of their own, large given ones where they are.

    The arrays of a graph never change.
    """

    def __init__(self, slots: Mapping[int, Placed], nbytes: int) -> None:
        memory = aligned(nbytes)
        self.bytes: dict[int, Bytes] = {}
        for slot, placed in slots.items():
            data = placed.slot.data
            given = None if data is None else np.ascontiguousarray(data).reshape(-1).view(np.uint8)
            if given is not None and placed.in_place:
                self.bytes[slot] = given
                continue
            room = self.bytes[slot] = memory[placed.offset : placed.offset + placed.nbytes]
            if given is not None:
                room[: given.size] = given


class _Context:
    """What one run needs for itself: addresses, the arena, each thread's scratch, the barrier."""

    def __init__(self, plan: Plan, constants: _Constants, scratch: int, threads: int) -> None:
        self.table = (ctypes.c_int64 * (1 + len(plan.program.slots)))()
        self.address = ctypes.addressof(self.table)
        self._arena = aligned(plan.arena_bytes)
        self._sync = aligned(sync_bytes(threads))
        self._sync[:] = 0
        self.sync: int = self._sync.ctypes.data
        self._scratch = aligned(scratch * threads)
        self.table[0] = self._scratch.ctypes.data
        self.place(constants)
        base: int = self._arena.ctypes.data
        for slot, placed in plan.temporaries.items():
            self.table[slot + 1] = base + placed.offset

    def place(self, constants: _Constants) -> None:
        """Tell where constants lie."""
        for slot, room in constants.bytes.items():
            self.table[slot + 1] = room.ctypes.data
