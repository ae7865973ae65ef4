"""What an algorithm is, and what it is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import ir
from convc.backend.target import Target
from convc.layout import Layout, Pads, covering
from ir.loops.nodes import Scalar
from ir.ops import Fused
from ir.types import Array

if TYPE_CHECKING:
    from convc.lowering import Lowering


@dataclass(frozen=True)
class Site:
    """A node in place: its op (a fused one taken apart), operand and result types, the target.

    ``constants`` holds the data of operands that are weights, None for the others; ``resident``
    is the size in bytes of all weights of the graph.
    """

    name: str
    op: ir.Op
    epilogue: tuple[ir.Op, ...]
    inputs: tuple[ir.TensorType, ...]
    outputs: tuple[ir.TensorType, ...]
    target: Target
    constants: tuple[Array | None, ...] = field(default=(), compare=False, repr=False)
    resident: int = field(default=0, compare=False, repr=False)

    @staticmethod
    def of(graph: ir.Graph, node: ir.Node, target: Target) -> Site:
        root, epilogue = node.op, tuple[ir.Op, ...]()
        if isinstance(node.op, Fused):
            root, epilogue = node.op.root, node.op.epilogue
        constants = tuple(graph.weights.get(name) for name in node.inputs)
        types = tuple(tuple(graph.types[n] for n in names) for names in (node.inputs, node.outputs))
        resident = sum(array.nbytes for array in graph.weights.values())
        return Site(node.name, root, epilogue, types[0], types[1], target, constants, resident)

    @property
    def kind(self) -> tuple[object, ...]:
        """What nodes have in common that are the same but for their operands."""
        return self.op, self.epilogue, self.inputs, self.outputs

    @property
    def dtype(self) -> Scalar:
        return self.outputs[0].dtype.value

    @property
    def lanes(self) -> int:
        return self.target.lanes(self.dtype)

    def shape(self, operand: int) -> tuple[int, ...]:
        return self.inputs[operand].static_shape

    @property
    def result(self) -> tuple[int, ...]:
        return self.outputs[0].static_shape


@dataclass(frozen=True)
class Wish:
    """The layouts an algorithm reads an operand in: any of ``blocks``, with at least ``halo``.

    ``exact`` wants the first block and just this halo.
    """

    blocks: tuple[int, ...] = (1,)
    halo: Pads = ()
    exact: bool = True

    def accepts(self, layout: Layout) -> bool:
        if self.exact:
            return layout == Layout(self.blocks[0], self.halo)
        have = layout.halo or ((0, 0),) * len(self.halo)
        enough = not self.halo or covering(have, self.halo) == have
        return layout.block in self.blocks and enough


AS_PLAIN = Wish()


class Algorithm(Protocol):
    """One way to compute some ops. Instances are stateless; the registry is ``ALGORITHMS``."""

    @property
    def name(self) -> str:
        """What it is called in choices and reports."""

    @property
    def reorders_only(self) -> bool:
        """True where results differ from the reference by the order of sums alone."""

    def supports(self, site: Site) -> str | None:
        """None, or the reason why this algorithm cannot compute the site's op."""

    def seconds(self, site: Site) -> float:
        """Predicted time on one thread."""

    def block(self, site: Site, given: Sequence[int]) -> int:
        """The channel block in which the result is written, the operands lying in ``given``."""

    def wishes(self, site: Site) -> tuple[Wish, ...]:
        """How each operand of the node is to be read."""

    def lower(self, site: Site, into: Lowering) -> None:
        """Append the steps that compute the node."""

    def tolerance(self, site: Site) -> float:
        """Largest error, relative to the sum of the magnitudes that the result is made of.

        Where an algorithm mixes more inputs than the formula does, those count too: each says so.
        """
