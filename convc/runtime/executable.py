"""A plan in memory, ready to run: one native call, no allocation, no Python inside."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convc.backend.jit import Compiled
from convc.backend.target import Target, check_runnable
from convc.plan import Data, Plan
from convc.program import Step
from convc.runtime.images import ImageLoop
from convc.runtime.memory import Bytes
from convc.runtime.part import Code, Part, RunMemory
from convc.runtime.threads import pool, runtime_code
from ir.loops.interpreter import NUMPY

SMALL = 40e-6  # seconds of shareable work below which a run stays on one thread


class Executable:
    """Machine code and constants of one plan. Runs may overlap: each has a context of its own.

    ``data``: what the plan was split from, if it was, which is gone afterwards.
    """

    def __init__(
        self, plan: Plan, target: Target, threads: int, data: Sequence[Data] | None = None
    ) -> None:
        check_runnable(target)
        if data is None:
            plan, data = plan.split()
        self.plan = plan
        self.threads = threads if _shareable(plan) > SMALL else 1
        self._runtime = runtime_code()
        self._loop = self._image_loop(plan, data[0], target)
        self._part = Part(plan, data[-1], target, threads)
        records = [*(self._loop.records() if self._loop else ()), *self._part.kernels.records()]
        scratch = max(self._part.kernels.scratch, self._loop.scratch if self._loop else 0)
        self._code = Code(records, scratch)
        self._contexts: deque[RunMemory] = deque()
        self._inputs = tuple(plan.program.inputs.values())
        self._outputs = tuple(plan.program.outputs.values())

    @property
    def compiled(self) -> dict[str, float]:
        """The kernels by name, with the processor seconds that compiling them took; those that
        came from the cache took none."""
        return {**(self._loop.part.seconds if self._loop else {}), **self._part.seconds}

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
        """Each step with a call that runs it alone on this thread, for timing; in order, and those
        that run for each image as often as there are images."""
        context = self._bound(inputs, outputs)
        for step, kernel, addresses in self._addressed(context):
            table = (ctypes.c_void_p * len(addresses))(*addresses)
            yield step, _StepCall(kernel.kernel(), table, step.kernel.tasks, (self, context))

    def _addressed(self, context: RunMemory) -> Iterator[tuple[Step, Compiled, list[int]]]:
        if self._loop is not None:
            yield from self._loop.addressed(context)
        kernels = self._part.kernels
        for step, kernel in zip(kernels.steps, kernels.each, strict=True):
            yield step, kernel, [context.table[1 + slot] for slot in step.slots]

    def _bound(self, inputs: Sequence[int], outputs: Sequence[int]) -> RunMemory:
        """A context for one run, the slots of inputs and outputs filled in."""
        try:
            context = self._contexts.pop()
        except IndexError:
            context = self._context()
        table = context.table
        for slot, address in zip(self._inputs, inputs, strict=True):
            table[slot + 1] = address
        for slot, address in zip(self._outputs, outputs, strict=True):
            table[slot + 1] = address
        if self._loop is not None:
            self._loop.bind(table)
        return context

    def _context(self) -> RunMemory:
        """Memory for one more run at a time."""
        places = 1 + len(self.plan.program.slots)
        arena = self.plan.arena_bytes
        if self._loop is not None:
            places += self._loop.places
            arena += self._loop.shared_bytes
        memory = RunMemory(places, self._code.scratch, arena, self.threads)
        memory.place(self._part.constants.addresses)
        placed = self.plan.temporaries.items()
        memory.place({slot: memory.arena + each.offset for slot, each in placed})
        if self._loop is not None:
            self._loop.place(memory)
        return memory

    def _image_loop(self, plan: Plan, data: Data, target: Target) -> ImageLoop | None:
        if plan.images is None:
            return None
        part = Part(plan.images, data, target, self.threads)
        return ImageLoop(part, plan, self._runtime.images, self.threads)

    @property
    def constants(self) -> tuple[Mapping[int, Bytes], ...]:
        """For each part of the plan, its constants' bytes, packed as the kernels read them."""
        parts = (self._part,) if self._loop is None else (self._loop.part, self._part)
        return tuple(part.constants.bytes for part in parts)


@dataclass(frozen=True)
class _StepCall:
    """One step on its own; keeps alive what its addresses point to."""

    kernel: Callable[..., None]
    table: Any
    tasks: int
    owner: tuple[Executable, RunMemory]

    def __call__(self) -> None:
        self.kernel(self.table, 0, self.tasks, self.owner[1].table[0])


def _shareable(plan: Plan) -> float:
    """Seconds of work that threads can share."""
    own = sum(step.work for step in plan.steps if step.parallel)
    images = plan.program.images
    if images is None or plan.images is None:
        return own
    return own + images.count * sum(step.work for step in plan.images.steps)
