"""The named cases of ``convc bench``: a kernel, a call, a small network."""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import ir
from convc.backend import jit
from convc.backend.target import Target
from convc.errors import Error
from convc.model import compile
from convc.tools import peers
from convc.tools.timing import Call, Timing, measure, pause_for, peak_call, step_times
from convc.train.lenet import lenet

HEADER = ("case", "contender", "median us", "min us", "GFLOP/s", "of peak", "ratio")


@dataclass(frozen=True)
class Row:
    """One line of a result: microseconds, and what they are compared with."""

    case: str
    contender: str
    median_us: float
    least_us: float
    gflops: float | None = None
    share_of_peak: float | None = None
    ratio: float | None = None
    """The contender's median over convc's."""


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of ``HEADER``."""

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


def difference(result: object, reference: object) -> float:
    """The largest difference, relative to the largest magnitude of the reference."""
    got, want = np.asarray(result), np.asarray(reference)
    largest = float(np.abs(want).max(initial=0.0))
    return float(np.abs(got - want).max(initial=0.0)) / (largest or 1.0)


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
    model = compile(graph, threads=1, target=target.name, algorithms={"conv": "direct"})
    inputs = [rng.standard_normal((1, 64, 56, 56), np.float32)]
    _compare("conv", model(*inputs), ir.interpret(graph, {"x": inputs[0]})["y"])
    call, peak_flops = peak_call(target)
    peak_before = measure({"peak": call}, args.rounds)["peak"]
    kernel = next(t for name, t in step_times(model, inputs).items() if "direct" in name)
    whole = measure({"call": lambda: model(*inputs)}, args.rounds)["call"]
    peak = min(peak_before, measure({"peak": call}, args.rounds)["peak"], key=lambda t: t.median)
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
    timings = measure({"ctypes": empty, "model": lambda: model(x)}, args.rounds, block=0.01)
    return [
        _row("overhead", "empty ctypes call", timings["ctypes"]),
        _row("overhead", "relu of 16 numbers", timings["model"]),
    ]


def _lenet(target: Target, args: argparse.Namespace) -> list[Row]:
    graph = lenet((1, 28, 28), (20, 50), 500, 10, kernel=5, pad="valid").bind({"N": 1})
    x = np.random.default_rng(0).standard_normal((1, 1, 28, 28), np.float32)
    model = compile(graph, threads=args.threads, target=target.name)
    calls: dict[str, Call] = {"convc": lambda: model(x)}
    for peer in args.vs:
        call = peers.contender(peer, graph, {"x": x}, args.threads)
        assert call is not None, f"{peer} can run this network"
        calls[peer] = call
    reference = ir.interpret(graph, {"x": x}, dtype="float64")["scores"]
    for name, call in calls.items():
        _compare(name, call(), reference)
    timings = measure(calls, args.rounds, pause=pause_for(args.threads))
    flops = graph.cost().flops
    ours = timings["convc"]
    return [_row("lenet", name, timing, flops, None, ours) for name, timing in timings.items()]


def _compare(who: str, result: object, reference: object) -> None:
    """A fast wrong result is none: raise ``Error``."""
    error = difference(result, reference)
    if not error < 1e-4:
        raise Error(f"{who}: outputs differ from the reference by {error:.1e} of the largest")


CASES: dict[str, Callable[[Target, argparse.Namespace], Sequence[Row]]] = {
    "conv": _conv,
    "overhead": _overhead,
    "lenet": _lenet,
}
