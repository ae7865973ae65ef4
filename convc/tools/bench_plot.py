"""A roofline: what convc and the best peer reach, below what the machine allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convc.tools.bench_layers import Report, Result
from convc.tools.comparison import OURS

OURS_COLOUR, PEER_COLOUR, ROOF_COLOUR = "#0b6fb8", "#d1702a", "#666666"
KINDS = {"c": "o", "g": "s", "h": "^"}  # marker by direction


def roofline(report: Report, path: Path) -> None:
    """Draw effective GFLOP/s over flops per byte of inputs and outputs; layers are numbered."""
    from matplotlib.figure import Figure

    shown = [result for result in report.results if OURS in result.times]
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots()
    _roof(axes, report, shown)
    for number, result in enumerate(shown, 1):
        _point(axes, number, result)
    _finish(axes, report)
    names = [f"{n:>2} {r.layer} {r.direction}" for n, r in enumerate(shown, 1)]
    figure.text(1.0, 0.5, "\n".join(names), fontsize=7, family="monospace", va="center")
    figure.savefig(path, dpi=130, bbox_inches="tight")


def _roof(axes: Any, report: Report, shown: list[Result]) -> None:
    """The two limits: memory, rising with the intensity, and arithmetic, level."""
    ridge = report.peak / report.stream
    intensities = [result.flops / result.nbytes for result in shown]
    low = min([ridge, *intensities]) / 1.5
    high = max([ridge, *intensities]) * 1.5
    axes.plot([low, ridge], [low * report.stream / 1e9, report.peak / 1e9], color=ROOF_COLOUR)
    axes.plot([ridge, high], [report.peak / 1e9] * 2, color=ROOF_COLOUR)
    text: dict[str, Any] = {"textcoords": "offset points", "color": ROOF_COLOUR}
    axes.annotate(f"multiply-adds {report.peak / 1e9:.0f} GFLOP/s", (ridge, report.peak / 1e9),
                  xytext=(-8, 4), ha="right", **text)  # fmt: skip
    axes.annotate(f"memory {report.stream / 1e9:.0f} GB/s", (low, low * report.stream / 1e9),
                  xytext=(8, 0), va="top", **text)  # fmt: skip


def _point(axes: Any, number: int, result: Result) -> None:
    """convc filled, the best peer hollow, a line between the two."""
    intensity, marker = result.flops / result.nbytes, KINDS[result.direction]
    rate = result.flops / result.times[OURS].median / 1e9
    if result.best:
        other = result.flops / result.times[result.best].median / 1e9
        axes.plot([intensity] * 2, [rate, other], color="#bbbbbb", linewidth=0.8, zorder=1)
        axes.plot(intensity, other, marker, color=PEER_COLOUR, fillstyle="none", zorder=2)
    axes.plot(intensity, rate, marker, color=OURS_COLOUR, zorder=3)
    axes.annotate(str(number), (intensity, rate), xytext=(5, 0), textcoords="offset points",
                  fontsize=7, va="center", color=OURS_COLOUR)  # fmt: skip


def _finish(axes: Any, report: Report) -> None:
    axes.set(xscale="log", yscale="log", xlabel="flops per byte of inputs, weights and outputs",
             ylabel="GFLOP/s of the direct sum")  # fmt: skip
    axes.set_title(f"{report.how.target.name}, threads: {report.how.threads}")
    axes.grid(True, which="both", color="#eeeeee")
    axes.plot([], [], "o", color=OURS_COLOUR, label="convc")
    if report.how.vs:
        peers = ", ".join(report.how.vs)
        axes.plot([], [], "o", color=PEER_COLOUR, fillstyle="none", label=f"best of {peers}")
    axes.legend(loc="lower right")
