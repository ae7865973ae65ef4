"""How to compile, as all tools take it: threads, target, accuracy, algorithms, passes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TypedDict

import ir
from convc.backend.target import target_named
from convc.errors import InputError
from convc.model import Options, renamed
from convc.passes import Pass, optimised
from convc.select import ACCURACIES
from convc.settings import default_threads, usable_threads
from convc.tools.arguments import add_target, add_threads
from convc.tools.passes import add_passes, passes_of


class How(TypedDict):
    """The arguments of ``convc.compile`` beside the graph and the threads."""

    accuracy: str
    algorithms: dict[str, str]
    target: str | None
    passes: Sequence[Pass]
    by_image: bool


def add_options(parser: argparse.ArgumentParser, threads: bool = True) -> None:
    """All of them; without ``threads`` for what is compiled for one."""
    if threads:
        add_threads(parser)
    add_target(parser)
    parser.add_argument("--accuracy", metavar="HOW", choices=ACCURACIES, default="fast",
                        help="fast or exact, as of convc.compile (default: fast)")  # fmt: skip
    parser.add_argument("--algorithm", metavar="NODE=NAME", action="append", default=[],
                        type=_forced, help="force a choice, as algorithms= of convc.compile; "
                        "repeat per node")  # fmt: skip
    parser.add_argument("--by-image", action=argparse.BooleanOptionalAction, default=True,
                        help="run images of a batch one by one where it pays "
                        "(default: yes)")  # fmt: skip
    add_passes(parser)


def how(args: argparse.Namespace) -> How:
    """What the arguments say, for ``convc.compile``."""
    return {"accuracy": args.accuracy, "algorithms": dict(args.algorithm), "target": args.target,
            "passes": passes_of(args), "by_image": args.by_image}  # fmt: skip


def options_of(args: argparse.Namespace, threads: int | None = None) -> Options:
    """What the arguments say, as a compilation has it; ``threads`` stand for theirs, if given."""
    wanted = threads or usable_threads(args.threads or default_threads())
    forced = tuple(sorted(dict(args.algorithm).items()))
    return Options(wanted, args.accuracy, forced, target_named(args.target), passes_of(args),
                   by_image=args.by_image)  # fmt: skip


def of_graph(algorithms: dict[str, str], graph: ir.Graph, passes: Sequence[Pass]) -> dict[str, str]:
    """The forced choices among ``algorithms`` whose nodes are in a graph, or merged into one."""
    better = optimised(graph, passes)
    names = {node.name for node in better.nodes}
    return {name: algorithm for name, algorithm in algorithms.items()
            if renamed({name: ""}, graph, better).keys() <= names}  # fmt: skip


def _forced(text: str) -> tuple[str, str]:
    node, equals, name = text.rpartition("=")
    if not (node and equals and name):
        raise InputError(f"--algorithm {text}: must be NODE=NAME")
    return node, name
