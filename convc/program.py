"""Programs: kernels run in order over slots of memory; what a graph is lowered to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

import ir
from convc.layout import PLAIN, Image, Layout
from ir.loops import Kernel, KernelBuilder
from ir.loops.nodes import Scalar

WORTH_SHARING = 2e-6  # seconds of work below which a step stays on one thread
Role = Literal["input", "output", "constant", "temporary"]


@dataclass(frozen=True)
class Slot:
    """A buffer of a program: ``size`` elements; constants carry their data unless computed.

    ``part``: the slot it lies in, an earlier one, and the element it begins with there.
    """

    number: int
    name: str
    dtype: Scalar
    size: int
    role: Role
    data: np.ndarray[Any, Any] | None = field(default=None, repr=False)
    part: tuple[int, int] | None = None


@dataclass(frozen=True)
class Step:
    """One kernel launch. ``node`` names the graph node it serves, ``work`` its seconds, roughly.

    ``over``: pairs of an operand and a result, by their places among the slots, of which the one
    may be written over the other; ``overwrites``: the places where a plan has it so, and there is
    one slot for both.
    """

    kernel: Kernel
    slots: tuple[int, ...]
    node: str
    algorithm: str
    work: float = 0.0
    over: tuple[tuple[int, int], ...] = ()
    overwrites: tuple[int, ...] = ()

    @property
    def parallel(self) -> bool:
        """Whether the step is worth more than one thread."""
        return self.kernel.tasks > 1 and self.work > WORTH_SHARING

    @property
    def reads(self) -> tuple[int, ...]:
        pairs = enumerate(zip(self.kernel.params, self.slots, strict=True))
        return tuple(s for at, (param, s) in pairs if at in self.overwrites or not param.writable)

    @property
    def writes(self) -> tuple[int, ...]:
        pairs = zip(self.kernel.params, self.slots, strict=True)
        return tuple(slot for param, slot in pairs if param.writable)


@dataclass(frozen=True)
class Stored:
    """A value, or something derived from it, in memory."""

    slot: int
    type: ir.TensorType
    layout: Layout = PLAIN

    @property
    def dtype(self) -> Scalar:
        return self.type.dtype.value

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.static_shape

    def image(self, k: KernelBuilder, name: str, write: bool = False) -> Image:
        """Declare this as a parameter of the kernel, seen in its layout."""
        declare = k.write if write else k.read
        physical = self.layout.physical(self.shape)
        return Image(declare(name, self.dtype, physical), self.layout, self.shape)


@dataclass(frozen=True)
class Program:
    """What a graph was lowered to; slots are numbered by position. ``images`` runs first."""

    slots: tuple[Slot, ...]
    steps: tuple[Step, ...]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    images: Images | None = None

    @property
    def strides(self) -> dict[int, int]:
        """For each slot that ``images`` binds, how many elements lie from one image to the next."""
        if self.images is None:
            return {}
        inner, bound = self.images.program.slots, self.images.bound.items()
        sizes = ((slot, inner[slot].size, self.slots[place].size) for slot, place in bound)
        return {slot: size if size != whole else 0 for slot, size, whole in sizes}


@dataclass(frozen=True)
class Images:
    """A program for one image, run ``count`` times inside another one.

    ``bound``: for each of its inputs and outputs the slot of the other one in which the images lie
    one behind the other; an input of equal size is the same for all.
    """

    program: Program
    count: int
    bound: Mapping[int, int]
