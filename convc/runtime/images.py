"""A program run for each image of a batch: each thread has images of its own.

What is left over when the images are dealt evenly, all threads run together, one by one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from convc.backend.jit import Compiled
from convc.backend.target import ITEM_BYTES
from convc.plan import ALIGNMENT, Plan
from convc.program import Step
from convc.runtime.part import Code, Part, Record, RunMemory

ABSOLUTE, PRIVATE = -1, -2  # instead of a number of an argument (see runtime.ll)


class ImageLoop:
    """The images of a program, whose table gets further places: one for the description of what is
    run, one for each of its slots, and for each image left over one for each slot that is bound."""

    def __init__(self, part: Part, whole: Plan, kernel: int, threads: int) -> None:
        outer = whole.program
        assert outer.images
        images = self._images = replace(outer.images, program=part.plan.program)
        self.part, self._kernel, self._first = part, kernel, 1 + len(outer.slots)
        self._behind = whole.arena_bytes
        self._alone = images.count - images.count % threads
        self._code = Code(list(part.kernels.records()), part.kernels.scratch)
        slots = part.plan.program.slots
        strides = outer.strides.items()
        self._strides = {slot: n * ITEM_BYTES[slots[slot].dtype] for slot, n in strides}
        self._description = self._described()
        left = images.count - self._alone
        self.places = 1 + len(part.plan.program.slots) + left * len(images.bound)
        self._moving = list(self._moved())

    @property
    def scratch(self) -> int:
        """Bytes that a thread needs: those of kernels; a table, an arena for images of its own."""
        own = self._arena + self.part.plan.arena_bytes
        return own if self._alone else self.part.kernels.scratch

    @property
    def shared_bytes(self) -> int:
        """Bytes of arena for images that all threads run together, where no thread has another."""
        return 0 if self._alone else self.part.plan.arena_bytes

    def records(self) -> Iterator[Record]:
        """The images that threads have for themselves, then the steps of each that is left."""
        if self._alone:
            places = [self._first, *(1 + slot for slot in self._images.bound.values())]
            yield Record(self._kernel, places, self._alone, True)
        for image in range(self._alone, self._images.count):
            own = self._bound_places(image)
            for record in self.part.kernels.records(self._first + 1):
                places = [own.get(place - self._first - 1, place) for place in record.places]
                yield Record(record.kernel, places, record.tasks, record.shared)

    def place(self, memory: RunMemory) -> None:
        """Tell where the description lies, the constants, the arena for images left over."""
        memory.table[self._first] = self._description.ctypes.data
        memory.place(self.part.constants.addresses, self._first + 1)
        memory.place(self._temporaries(self._shared(memory)), self._first + 1)

    def bind(self, table: ctypes.Array[ctypes.c_int64]) -> None:
        """Follow the inputs and outputs of a run to the images that are left over."""
        for place, source, offset in self._moving:
            table[place] = table[source] + offset

    def addressed(self, memory: RunMemory) -> Iterator[tuple[Step, Compiled, list[int]]]:
        """Each step for each image, in order, its code, and the addresses of its buffers."""
        kernels = self.part.kernels
        known = self.part.constants.addresses | self._temporaries(self._shared(memory))
        for image in range(self._images.count):
            for inner, place in self._images.bound.items():
                known[inner] = memory.table[1 + place] + image * self._strides[inner]
            for step, kernel in zip(kernels.steps, kernels.each, strict=True):
                yield step, kernel, [known[slot] for slot in step.slots]

    @property
    def _arena(self) -> int:
        """Where the arena begins, in bytes from the start of a thread's scratch."""
        table = 8 * (1 + len(self.part.plan.program.slots))
        return -(-table // ALIGNMENT) * ALIGNMENT + self.part.kernels.scratch

    def _shared(self, memory: RunMemory) -> int:
        """The arena for images that are left over: that of the first thread, if it has one."""
        return memory.scratch + self._arena if self._alone else memory.arena + self._behind

    def _temporaries(self, arena: int) -> dict[int, int]:
        placed = self.part.plan.temporaries
        return {slot: arena + each.offset for slot, each in placed.items()}

    def _described(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The program, and for each of its slots: base, stride, offset."""
        slots = self.part.plan.program.slots
        records = {slot: (ABSOLUTE, 0, at) for slot, at in self.part.constants.addresses.items()}
        records |= {slot: (PRIVATE, 0, at) for slot, at in self._temporaries(self._arena).items()}
        for number, (slot, stride) in enumerate(self._strides.items(), 1):
            records[slot] = (number, stride, 0)
        words = [self._code.program, self._code.arguments, 1 + len(slots)]
        for slot in range(len(slots)):
            words += records.get(slot, (ABSOLUTE, 0, 0))
        return np.array(words, np.int64)

    def _bound_places(self, image: int) -> dict[int, int]:
        """Where the addresses of the slots that move stand, for an image left over."""
        before = self._first + 1 + len(self.part.plan.program.slots)
        before += (image - self._alone) * len(self._strides)
        return {slot: before + number for number, slot in enumerate(self._strides)}

    def _moved(self) -> Iterator[tuple[int, int, int]]:
        """For those, their place, that of where all images lie, and how far the image lies in."""
        for image in range(self._alone, self._images.count):
            for slot, place in self._bound_places(image).items():
                yield place, 1 + self._images.bound[slot], image * self._strides[slot]
