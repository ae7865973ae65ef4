"""``convc bench``: measure this machine's limit, kernels and calls, beside the peers."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

from convc import zoo
from convc.backend.target import target_named
from convc.errors import Error
from convc.plugins import algorithms
from convc.tools import bench_layers, bench_networks, bench_ops, bench_plot, layers, peers, plotting
from convc.tools.arguments import Subparsers, add_sizes, add_target, new_parser, positive
from convc.tools.bench_cases import CASES, HEADER, cells
from convc.tools.comparison import How
from convc.tools.layers import DIRECTIONS
from convc.tools.passes import DEFAULT, add_passes, passes_of
from convc.tools.table import json_text, table
from ir.errors import did_you_mean

DESCRIPTION = """\
Contenders run in turn, in rounds, and their outputs are compared first. Times are medians and
minima; on a shared machine trust the ratios (the contender's median over convc's).

cases:
  conv      the direct 3x3 convolution, 64 to 64 channels, 56x56, one thread: GFLOP/s
            and the share of the FMA peak, both measured here
  overhead  a call of a trivial graph, beside an empty call through ctypes

networks, beside the peers named by --vs, on the same weights: files, or of the zoo
{networks}.

--layers measures single convolutions instead: from numpy arrays to a numpy array in the layout
of the caller, so conversions between layouts are part of the time. GFLOP/s count the flops of
the direct sum, whatever the algorithm. --ops measures a medium-sized case of each kind of op
beside PyTorch, forward and with the gradients of all operands. Exit status 1 when convc has no
correct result for something."""
EXAMPLE = """\
  convc bench lenet resnet50 --vs onnxruntime openvino torch
  convc bench unet --batch 2 --threads 2 --vs torch
  convc bench --layers --vs onnxruntime torch --plot roofline.png
  convc bench --layers '3x3-*' --directions g h --batch 8 --vs torch"""


LAYERS, OPS, NETWORKS, NAMED = "single layers", "ops", "networks", "cases"
MEANT: dict[str, tuple[object, tuple[str, ...]]] = {
    "directions": (["c"], (LAYERS,)),
    "algorithm": (None, (LAYERS,)),
    "plot": (None, (LAYERS,)),
    "sizes": ([], (NETWORKS,)),
    "batch": (None, (NETWORKS, LAYERS)),
    "vs": ([], (NETWORKS, LAYERS)),
    "passes": (DEFAULT, (NETWORKS, LAYERS)),
    "without": ("", (NETWORKS, LAYERS)),
    "threads": (1, (NETWORKS, LAYERS, OPS)),
}
"""Options that mean nothing to some of what can be measured: their defaults, and what they are
for."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers, "bench", "measure kernels and calls on this machine, beside the peers",
        DESCRIPTION.format(networks=_wrapped(zoo.NAMES)), EXAMPLE,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help="cases, or networks (default: all cases)")  # fmt: skip
    parser.add_argument("--vs", nargs="+", default=[], metavar="PEER",
                        help=f"peers: {', '.join(peers.PEERS)}; those that cannot do one "
                        "are left out of it")  # fmt: skip
    parser.add_argument("--threads", metavar="N", type=positive, default=1,
                        help="threads of every contender (default: 1)")  # fmt: skip
    parser.add_argument("--rounds", metavar="N", type=positive, default=10,
                        help="how often each contender has its turn (default: 10)")  # fmt: skip
    parser.add_argument("--batch", metavar="N", type=positive,
                        help="of networks (default: 1), like --sizes N=...; replaces every "
                        "layer's own")  # fmt: skip
    add_sizes(parser, 1)
    add_target(parser)
    parser.add_argument("--json", metavar="FILE", nargs="?", const="-", type=_json_file,
                        help="print JSON instead of text, or write it to a .json file "
                        "beside the text")  # fmt: skip
    parser.add_argument("--ops", metavar="NAME", nargs="*",
                        help="ops beside PyTorch, forward and with gradients: names, patterns "
                        "or families (default: all)")  # fmt: skip
    _add_layer_arguments(parser)
    add_passes(parser)
    parser.set_defaults(run=run, native=True)


def _add_layer_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("single layers")
    group.add_argument("--layers", metavar="NAME", nargs="*",
                       help="names or patterns such as '3x3-*' (default: all)")  # fmt: skip
    group.add_argument("--directions", nargs="+", default=["c"], metavar="D",
                       help="c forward, weights known; g gradient in the weights; "
                       "h gradient in the input (default: c)")  # fmt: skip
    group.add_argument("--algorithm", metavar="NAME",
                       help="convc's, for every layer (default: its own choice)")  # fmt: skip
    group.add_argument("--plot", metavar="FILE", help="draw a roofline (needs matplotlib)")


def run(args: argparse.Namespace) -> int:
    """Measure what is asked for and print a table, or JSON."""
    _separate(args)
    peers.require(args.vs)
    asked = [args.layers is not None, args.ops is not None, bool(args.names)]
    if sum(asked) > 1:
        raise Error("--layers, --ops and names are measured one by one; give one of them")
    networks = [name for name in args.names if name not in CASES]
    if networks and len(networks) < len(args.names):
        raise Error("cases and networks are measured one by one; give one of them")
    what = OPS if args.ops is not None else NETWORKS if networks else NAMED
    what = LAYERS if args.layers is not None else what
    for option, (default, meant) in MEANT.items():
        if what not in meant and getattr(args, option) != default:
            raise Error(f"--{option} is for {' and '.join(meant)}, not for {what}; leave it out")
    measure = {LAYERS: _layers, OPS: _ops, NETWORKS: _networks, NAMED: _cases}[what]
    return measure(args)


def _cases(args: argparse.Namespace) -> int:
    target = target_named(args.target)
    rows = [row for case in args.names or CASES for row in CASES[case](target, args)]
    _print(args, [asdict(row) for row in rows], table(HEADER, [cells(row) for row in rows]))
    return 0


def _separate(args: argparse.Namespace) -> None:
    """Move what ``--vs`` took, being no peer but a case, network or file, to the names, and what
    ``--directions`` took, being none, to the layers."""
    for word in [word for word in args.directions if word not in DIRECTIONS]:
        if args.layers is None or not any(fnmatchcase(each.name, word) for each in layers.LAYERS):
            raise Error(f"--directions: no direction {word!r}; there are {', '.join(DIRECTIONS)}")
        args.directions.remove(word)
        args.layers.append(word)
    for word in [word for word in args.vs if word not in peers.PEERS]:
        if word not in (*CASES, *zoo.NAMES) and not _is_model(word):
            known = ", ".join(peers.PEERS)
            hint = did_you_mean(word, peers.PEERS) or f"; peers are {known}"
            raise Error(f"--vs: no peer {word!r}{hint}")
        args.vs.remove(word)
        args.names.append(word)


def _networks(args: argparse.Namespace) -> int:
    unknown = [name for name in args.names if name not in zoo.NAMES and not _is_model(name)]
    if unknown:
        known = (*CASES, *zoo.NAMES)
        hint = did_you_mean(unknown[0], known) or f"; there are {', '.join(known)}"
        raise Error(f"no case, network or file {unknown[0]!r}{hint}")
    report = bench_networks.measured(args.names, args.sizes, _how(args))
    _print(args, report.plain(), report.text())
    return 1 if report.failed else 0


def _is_model(name: str) -> bool:
    return ":" in name or Path(name).exists()


def _how(args: argparse.Namespace) -> How:
    return How(
        target=target_named(args.target), threads=args.threads, rounds=args.rounds,
        vs=tuple(args.vs), batch=args.batch, algorithm=args.algorithm, passes=passes_of(args),
    )  # fmt: skip


def _layers(args: argparse.Namespace) -> int:
    known = [algorithm.name for algorithm in algorithms()]
    if args.algorithm is not None and args.algorithm not in known:
        hint = did_you_mean(args.algorithm, known) or f"; there are {', '.join(known)}"
        raise Error(f"--algorithm: no algorithm {args.algorithm!r}{hint}")
    if args.plot:
        plotting.check(Path(args.plot))  # before measuring for minutes
    report = bench_layers.measured(args.layers, args.directions, _how(args))
    if args.plot:
        bench_plot.roofline(report, Path(args.plot))
    _print(args, report.plain(), report.text())
    return 1 if report.failed else 0


def _ops(args: argparse.Namespace) -> int:
    target = target_named(args.target)
    report = bench_ops.measured(args.ops, target, args.threads, args.rounds)
    _print(args, report.plain(), report.text())
    return 1 if report.failed else 0


def _print(args: argparse.Namespace, plain: object, text: str) -> None:
    if args.json is not None:
        if args.json == "-":
            print(json_text(plain))
            return
        Path(args.json).write_text(json_text(plain) + "\n", encoding="utf-8")
    print(text)


def _wrapped(names: Sequence[str]) -> str:
    return textwrap.fill(", ".join(names), 96, initial_indent="  ", subsequent_indent="  ")


def _json_file(text: str) -> str:
    if text != "-" and not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a .json file, or - for standard output")
    return text
