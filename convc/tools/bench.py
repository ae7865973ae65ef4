"""``convc bench``: measure this machine's limit, kernels and calls, beside the peers."""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

import ir
from convc.backend import jit
from convc.backend.target import Target, target_named
from convc.errors import Error
from convc.model import compile
from convc.tools import peers
from convc.tools.arguments import (
    Subparsers,
    add_json,
    add_target,
    add_threads,
    new_parser,
)
from convc.tools.table import json_text, table
from convc.tools.timing import Call, Timing, measure, peak_call, step_times
from convc.train.lenet import lenet

PEERS = ("onnxruntime", "torch")


@dataclass(frozen=True)
class Row:
    """One line of a result: seconds, and what they are compared with."""

    case: str
    contender: str
    median_us: float
    least_us: float
    gflops: float | None = None
    share_of_peak: float | None = None
    ratio: float | None = None
    """The contender's median over convc's."""


def add_parser(subparsers: Subparsers) -> None:
    parser = new_parser(
        subparsers,
        "bench",
        "measure kernels and calls on this machine, beside the peers",
        "Contenders run in turn, in rounds, and their outputs are compared first. Times are\n"
        "medians and minima; on a shared machine trust the ratios (the contender's median over\n"
        "convc's).\n\n"
        "cases:\n"
        "  conv      the direct 3x3 convolution, 64 to 64 channels, 56x56, one thread: GFLOP/s\n"
        "            and the share of the FMA peak, both measured here\n"
        "  overhead  a call of a trivial graph, beside an empty call through ctypes\n"
        "  lenet     LeNet on one 28x28 image, batch 1, beside the peers named by --vs",
        "  convc bench lenet --vs onnxruntime",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE",
                        help=f"any of {', '.join(CASES)} (default: all)")  # fmt: skip
    parser.add_argument("--vs", nargs="+", default=[], choices=PEERS, metavar="PEER",
                        help=f"peers for lenet: {', '.join(PEERS)}")  # fmt: skip
    add_threads(parser)
    add_target(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure the cases asked for and print a table, or JSON."""
    unknown = [case for case in args.cases if case not in CASES]
    if unknown:
        raise Error(f"no case {unknown[0]!r}; one of {', '.join(CASES)}")
    target = target_named(args.target)
    rows = [row for case in args.cases or CASES for row in CASES[case](target, args)]
    if args.json:
        print(json_text([asdict(row) for row in rows]))
    else:
        print(table(HEADER, [_cells(row) for row in rows]))
    return 0


HEADER = ("case", "contender", "median us", "min us", "GFLOP/s", "of peak", "ratio")


def _cells(row: Row) -> tuple[str, ...]:
    def optional(value: float | None, form: Callable[[float], str]) -> str:
        return "" if value is None else form(value)

    return (
        row.case,
        row.contender,
        f"{row.median_us:.2f}",
        f"{row.least_us:.2f}",
        optional(row.gflops, "{:.1f}".format),
        optional(row.share_of_peak, "{:.0%}".format),
        optional(row.ratio, "{:.2f}".format),
    )


def _row(
    case: str,
    name: str,
    timing: Timing,
    flops: float | None = None,
    peak: float | None = None,
    ours: Timing | None = None,
) -> Row:
    rate = flops / timing.median / 1e9 if flops else None
    return Row(
        case, name, timing.median * 1e6, timing.least * 1e6, rate,
        rate / peak if rate and peak else None,
        timing.median / ours.median if ours else None,
    )  # fmt: skip


def _conv(target: Target, args: argparse.Namespace) -> list[Row]:
    """The convolution kernel alone, on blocked data, as it runs inside a network."""
    rng = np.random.default_rng(0)
    b = ir.Builder("conv")
    x = b.input("x", "f32[1, 64, 56, 56]")
    w = b.weight("w", rng.standard_normal((64, 64, 3, 3), np.float32))
    b.output("y", b.conv(x, w, pad="same", name="conv"))
    graph = b.build()
    model = compile(graph, threads=1, target=target.name)
    inputs = [rng.standard_normal((1, 64, 56, 56), np.float32)]
    _compare("conv", model(*inputs), ir.interpret(graph, {"x": inputs[0]})["y"])
    call, peak_flops = peak_call(target)
    peak_before = measure({"peak": call})["peak"]
    kernel = next(t for name, t in step_times(model, inputs).items() if "direct" in name)
    whole = measure({"call": lambda: model(*inputs)})["call"]
    peak = max(peak_before, measure({"peak": call})["peak"], key=lambda t: -t.median)
    flops = graph.cost().flops
    limit = peak_flops / peak.median / 1e9
    return [
        _row("conv", f"FMA peak, {target.name}", peak, peak_flops),
        _row("conv", "direct kernel", kernel, flops, limit),
        _row("conv", "whole call, NCHW in and out", whole, flops, limit),
    ]


def _overhead(target: Target, args: argparse.Namespace) -> list[Row]:
    b = ir.Builder("trivial")
    b.output("y", b.relu(b.input("x", "f32[16]")))
    model = compile(b.build(), threads=1, target=target.name)
    x = np.ones(16, np.float32)
    code = jit.load(
        jit.parsed("define void @nothing() { ret void }", jit.target_machine(target)),
        jit.target_machine(target),
        "nothing",
    )
    empty = ctypes.CFUNCTYPE(None)(code.address)
    timings = measure({"ctypes": empty, "model": lambda: model(x)}, block=0.01)
    return [
        _row("overhead", "empty ctypes call", timings["ctypes"]),
        _row("overhead", "relu of 16 numbers", timings["model"]),
    ]


def _lenet(target: Target, args: argparse.Namespace) -> list[Row]:
    graph = lenet((1, 28, 28), (20, 50), 500, 10, kernel=5, pad="valid").bind({"N": 1})
    x = np.random.default_rng(0).standard_normal((1, 1, 28, 28), np.float32)
    model = compile(graph, threads=(args.threads or 1), target=target.name)
    calls: dict[str, Call] = {"convc": lambda: model(x)}
    reference = ir.interpret(graph, {"x": x}, dtype="float64")["scores"]
    _compare("convc", model(x), reference)
    for peer in args.vs:
        contender = getattr(peers, f"{peer}_lenet")(graph, x, (args.threads or 1))
        _compare(peer, contender(), reference)
        calls[peer] = contender
    timings = measure(calls)
    ours = timings["convc"]
    flops = graph.cost().flops
    return [_row("lenet", name, timing, flops, None, ours) for name, timing in timings.items()]


def _compare(who: str, result: object, reference: object) -> None:
    """A fast wrong result is none: raise ``Error``."""
    got, want = np.asarray(result), np.asarray(reference)
    error = float(np.abs(got - want).max() / np.abs(want).max())
    if not error < 1e-4:
        raise Error(f"{who}: outputs differ from the reference by {error:.1e} of the largest")


CASES: dict[str, Callable[[Target, argparse.Namespace], Sequence[Row]]] = {
    "conv": _conv,
    "overhead": _overhead,
    "lenet": _lenet,
}
