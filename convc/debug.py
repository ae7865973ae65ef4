"""What ``CONVC_DEBUG`` shows on standard error when a graph is compiled.

1 the algorithms chosen, 2 also the graph after each pass, 3 also the loops of each kernel, 4 also
its LLVM assembly, 5 also the machine's assembly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from convc import settings
from convc.backend import jit
from convc.passes import Pass, run_passes
from ir.loops import to_text

if TYPE_CHECKING:
    from convc.model import Stages


def report(made: Stages, passes: Sequence[Pass]) -> Stages:
    """Print as much as ``CONVC_DEBUG`` asks for; gives back what it was given."""
    level = settings.number("CONVC_DEBUG")
    if level:
        for text in _texts(made, passes, level):
            print(text.rstrip(), file=sys.stderr)
    return made


def _texts(made: Stages, passes: Sequence[Pass], level: int) -> Iterator[str]:
    if level >= 2:
        for name, graph in run_passes(made.graph, passes):
            yield f"# {made.graph.name} after {name}\n{graph}"
    yield f"# algorithms of {made.graph.name} for {made.target.name}"
    for node, algorithm in made.algorithms.items():
        yield f"{node}: {algorithm.name}"
    kernels = {jit.digest(step.kernel): step.kernel for _, step in made.plan.numbered()}
    for kernel in kernels.values() if level >= 3 else ():
        yield f"# loops of {kernel.name}\n{to_text(kernel)}"
        if level >= 4:
            yield f"; LLVM of {kernel.name}\n{jit.llvm_text(kernel, made.target)}"
        if level >= 5:
            yield f"# assembly of {kernel.name}\n{jit.assembly(kernel, made.target)}"
