"""Run a plan's kernels one by one over arrays that stand for its slots.

The plan is the compiler's; the memory and the order of launching are ours: as interpreted loops,
or natively with the tasks in any order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from convc.backend.jit import compile_kernel
from convc.backend.scratch import scratch_bytes
from convc.backend.target import Target
from convc.plan import Plan
from convc.program import Slot, Step
from ir.loops import Kernel, interpret
from ir.loops.interpreter import NUMPY
from ir.types import Array

Launch = Callable[[Kernel, Sequence[Array]], None]
Allocate = Callable[[Slot], Array]
Scratch = Callable[[int], Array]
Order = Callable[[int], Iterable[int]]


def memory(plan: Plan, inputs: Mapping[str, Array], allocate: Allocate) -> list[Array]:
    """An array for every slot; those of inputs and constants hold their data."""
    slots: list[Array] = []
    for slot in plan.program.slots:
        if slot.part is None:
            slots.append(allocate(slot))
        else:
            whole, start = slot.part
            slots.append(slots[whole][start : start + slot.size])
    for name, number in plan.program.inputs.items():
        if name in inputs:
            slots[number][:] = inputs[name].reshape(-1)
    for slot in plan.program.slots:
        if slot.data is not None:
            slots[slot.number][:] = slot.data.reshape(-1)
    return slots


def launch_all(plan: Plan, slots: Sequence[Array], launch: Launch) -> dict[str, Array]:
    """Launch every step; the outputs, flat, by name."""
    if plan.images is not None:
        for_each_image(plan, slots, launch)
    for step in (*plan.prepare, *plan.steps):
        launch(step.kernel, operands(step, slots))
    return {name: slots[number] for name, number in plan.program.outputs.items()}


def for_each_image(plan: Plan, slots: Sequence[Array], launch: Launch) -> None:
    """Run the plan for one image on each image of what is bound to it."""
    images = plan.program.images
    for image in range(images.count):
        own = memory(plan.images, {}, unwritten)
        for inner, outer in images.bound.items():
            size = plan.images.program.slots[inner].size
            start = image * size if slots[outer].size > size else 0
            own[inner] = slots[outer][start : start + size]
        launch_all(plan.images, own, launch)


def run(plan: Plan, inputs: Mapping[str, Array], launch: Launch) -> dict[str, Array]:
    """The outputs of a plan, flat, by name; memory that nobody has written holds NaN."""
    return launch_all(plan, memory(plan, inputs, unwritten), launch)


def unwritten(slot: Slot) -> Array:
    """An array for a slot, filled with what no kernel may depend on."""
    filler = -(2**62) if slot.dtype == "i64" else np.nan
    return np.full(slot.size, filler, NUMPY[slot.dtype])


def undefined(nbytes: int) -> Array:
    """Scratch memory that holds NaN, whatever the element type."""
    return np.full(nbytes, 255, np.uint8)


def operands(step: Step, slots: Sequence[Array]) -> list[Array]:
    """The slots of a step in the shapes of its kernel's parameters."""
    pairs = zip(step.kernel.params, step.slots, strict=True)
    return [slots[number][: param.size].reshape(param.shape) for param, number in pairs]


def as_loops(reverse: bool = False) -> Launch:
    """Launch by interpreting the loops, the tasks in order or in reverse."""
    return lambda kernel, arrays: interpret(kernel, arrays, reverse)


def natively(target: Target, order: Order | None = None, scratch: Scratch = undefined) -> Launch:
    """Launch machine code: all tasks in one call, or each in one of its own in a given order."""

    def launch(kernel: Kernel, arrays: Sequence[Array]) -> None:
        compiled = compile_kernel(kernel, target)
        addresses = [array.ctypes.data for array in arrays]
        table = (ctypes.c_void_p * max(len(addresses), 1))(*addresses)
        room = scratch(scratch_bytes(kernel))
        ranges = [(0, kernel.tasks)] if order is None else [(t, t + 1) for t in order(kernel.tasks)]
        for begin, end in ranges:
            compiled.kernel()(table, begin, end, room.ctypes.data)

    return launch
