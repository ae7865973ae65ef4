"""The named cases of ``convc bench``: a kernel and a call."""

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
from convc.tools.comparison import difference
from convc.tools.timing import Timing, measure, peak_call, step_times

HEADER = ("case", "contender", "median us", "min us", "GFLOP/s", "of peak")


@dataclass(frozen=True)
class Row:
    """One line of a result: microseconds, and what they are compared with."""

    case: str
    contender: str
    median_us: float
    least_us: float
    gflops: float | None = None
    share_of_peak: float | None = None


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
    )


def _row(
    case: str,
    name: str,
    timing: Timing,
    flops: float | None = None,
    peak: float | None = None,
) -> Row:
    rate = flops / timing.median / 1e9 if flops else None
    return Row(
        case, name, timing.median * 1e6, timing.least * 1e6, rate,
        rate / peak if rate and peak else None,
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
    code = jit.assembled("define void @nothing() { ret void }", target, "nothing")
    empty = ctypes.CFUNCTYPE(None)(code.address)
    timings = measure({"ctypes": empty, "model": lambda: model(x)}, args.rounds, block=0.01)
    return [
        _row("overhead", "empty ctypes call", timings["ctypes"]),
        _row("overhead", "relu of 16 numbers", timings["model"]),
    ]


def _compare(who: str, result: object, reference: object) -> None:
    """A fast wrong result is none: raise ``Error``."""
    error = difference(result, reference)
    if not error < 1e-4:
        raise Error(f"{who}: outputs differ from the reference by {error:.1e} of the largest")


CASES: dict[str, Callable[[Target, argparse.Namespace], Sequence[Row]]] = {
    "conv": _conv,
    "overhead": _overhead,
}
