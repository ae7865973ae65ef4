"""What the tools call ops and steps, and the lines that explain it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import ir
from convc.plan import Plan
from convc.pooling import Pool
from ir.errors import did_you_mean


def op_label(op: ir.Op) -> str:
    """The name of an op; of a fused one, its parts: ``conv+bias+relu``."""
    if isinstance(op, ir.ops.Fused):
        return "+".join(part.name for part in (op.root, *op.epilogue))
    return op.name


def pools(graph: ir.Graph, plan: Plan) -> dict[str, ir.Node]:
    """The pools that have no step of their own, by the node that makes them as it stores."""
    busy = {step.node for _, step in plan.numbered()}
    idle = [node for node in graph.nodes if isinstance(node.op, Pool) and node.name not in busy]
    makers = [(graph.producer(node.inputs[0]), node) for node in idle]
    return {maker.name: node for maker, node in makers if maker is not None}


def often(label: str, images: int | None) -> str:
    """``8 x conv`` for an op that runs for each of 8 images, one by one."""
    return f"{images} x {label}" if (images or 1) > 1 else label


def images_note(counts: Iterable[int | None], what: str) -> list[str]:
    """A line that explains ``8 x`` if there is any; ``what`` says of which images numbers are."""
    images = max((count or 1 for count in counts), default=1)
    note = "runs for one image of the batch after the other"
    return [f"{images} x: {note}; {what}"] if images > 1 else []


def steps_notes(plan: Plan, places: Iterable[str]) -> list[str]:
    """What the names mean that are no plain numbers, of steps as ``Plan.numbered`` has them."""
    images = plan.program.images.count if plan.program.images else 0
    meanings = {
        "p": "run once, when the model is made",
        "ip": "run once, when the model is made, for i0, i1, ...",
        "i": f"run before 0, 1, ..., for one image after the other, {images} times",
    }
    marks = {place.rstrip("0123456789") for place in places}
    return [f"{mark}0, {mark}1, ... {meaning}" for mark, meaning in meanings.items()
            if mark in marks]  # fmt: skip


def unknown_node(name: str, *graphs: ir.Graph) -> str:
    """What is said of a node that no graph has: the nearest name, or the names in the last one."""
    known = dict.fromkeys(node.name for graph in graphs for node in graph.nodes)
    listed = ", ".join(node.name for node in graphs[-1].nodes)
    others = f"; there are {textwrap.shorten(listed, 400, placeholder='...')}"
    return f"no node '{name}'{did_you_mean(name, known) or others}"
