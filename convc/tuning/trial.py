"""One node by itself, with one algorithm after the other: its results, its time, its memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

import ir
from convc.backend.scratch import scratch_bytes
from convc.model import Model, Options
from convc.plan import Plan, alive, in_sequence
from convc.plan import plan as planned
from convc.program import Step
from convc.runtime.executable import Executable
from convc.tools.accuracy import random_inputs
from convc.tools.verification import one_node

Array: TypeAlias = "np.ndarray[Any, Any]"
BETWEEN = ("convert", "copy")  # steps that bring values to a node and from it, not part of it


class Trial:
    """A node of a static graph on random inputs; what is constant in the graph is constant here."""

    def __init__(self, graph: ir.Graph, node: ir.Node, options: Options) -> None:
        self.graph, self.node = one_node(graph, node), node
        self.options = replace(options, passes=(), tuning=(), tune=0.0)
        self.inputs = random_inputs(self.graph)

    def entry(self, algorithm: str) -> Entry:
        """Compile the node with an algorithm and run it once."""
        forced = ((self.node.name, algorithm),)
        model = Model(self.graph, replace(self.options, algorithms=forced))
        results = model.run(self.inputs)
        plan = planned(model.stages().plan.program, overwriting=False)  # it runs many times
        mine = alone(plan, self.inputs)
        executable = Executable(mine, self.options.target, self.options.threads)
        idle = Executable(Plan(mine.program, (), (), {}, {}, {}), self.options.target, 1)
        outputs = executable.allocate()
        addresses = [array.ctypes.data for array in outputs]
        call, empty = (
            functools.partial(_run, each, addresses, outputs) for each in (executable, idle)
        )
        operands = mine.constants.keys() - plan.constants.keys()
        read = [executable.constants[-1][n].view(np.int64) for n in operands]
        return Entry(results, call, empty, read)


@dataclass(frozen=True)
class Entry:
    """What an algorithm computed, a call that runs it again, and the operands it reads then.

    ``empty`` is a call like it that computes nothing: what calling takes by itself.
    """

    results: Mapping[str, Array]
    call: Callable[[], None]
    empty: Callable[[], None]
    operands: Sequence[Array]


def _run(executable: Executable, outputs: list[int], kept: object) -> None:
    executable.run((), outputs)


def alone(plan: Plan, inputs: Mapping[str, Array]) -> Plan:
    """The plan of a graph of one node without what brings values to the node and from it.

    Operands are constants here, those after the plan's own, and lie as the node reads them.
    """
    program = plan.program
    data = {program.inputs[name]: array for name, array in inputs.items()}
    ready = {*plan.constants, *data}
    early: list[Step] = []
    for step in plan.steps:
        if step.algorithm in BETWEEN and ready.issuperset(step.reads):
            early.append(step)
            ready.update(step.writes)
    further = (
        replace(program.slots[number], role="constant", data=data.get(number))
        for number in sorted(ready - plan.constants.keys())
    )
    constants = {**plan.constants, **in_sequence(further, plan.constant_bytes)}
    temporaries = {n: placed for n, placed in plan.temporaries.items() if n not in ready}
    steps = tuple(step for step in plan.steps if step.algorithm not in BETWEEN)
    prepare = (*plan.prepare, *early)
    return Plan(replace(program, inputs={}), prepare, steps, constants, temporaries, plan.passing)


def workspace_bytes(plan: Plan) -> int:
    """Memory that the only node of a graph needs beside its operands, results and packed weights.

    The most that its temporaries take at any of its steps, and the scratch of one thread.
    """
    own = [step for step in plan.steps if step.algorithm not in BETWEEN]
    between = (step for step in plan.steps if step.algorithm in BETWEEN)
    values = {slot for step in between for slot in step.slots}
    values.update(slot for step in own[-1:] for slot in step.writes)
    rest = (placed for number, placed in plan.temporaries.items() if number not in values)
    scratch = [scratch_bytes(step.kernel) for step in own]
    return max(alive(rest, len(plan.steps))) + max(scratch, default=0)
