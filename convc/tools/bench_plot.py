"""A roofline: what convc and the best peer reach, below what the machine allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from convc.tools.bench_layers import Report, Result
from convc.tools.comparison import OURS
from convc.tools.layers import Direction

OURS_COLOUR, PEER_COLOUR, ROOF_COLOUR = "#0b6fb8", "#d1702a", "#666666"
KINDS: dict[Direction, tuple[str, str]] = {
    "c": ("o", "forward"),
    "g": ("s", "gradient in the weights"),
    "h": ("^", "gradient in the input"),
}
"""Marker and name by direction."""
ROWS = 45  # of a column of names, as many as the paper is high
LETTER = 0.072  # inches that a letter of them is wide
AWAY = ((9, 0), (-9, 0), (0, 9), (0, -9), (8, 8), (-8, 8), (8, -8), (-8, -8))
"""Where the number of a point may stand beside it, in points of type; the first is preferred."""


def roofline(report: Report, path: Path) -> None:
    """Draw effective GFLOP/s over flops per byte of inputs and outputs; layers are numbered."""
    drawn(report).savefig(path, dpi=130, bbox_inches="tight")


def drawn(report: Report) -> Any:
    """The figure itself."""
    from matplotlib.figure import Figure

    shown = [result for result in report.results if OURS in result.times]
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots()
    _roof(axes, report, shown)
    for result in shown:
        _point(axes, result)
    _finish(axes, report, shown)
    figure.draw_without_rendering()  # from here on places on the paper are known
    _number(axes, shown)
    _list(figure, shown)
    return figure


def _list(figure: Any, shown: Sequence[Result]) -> None:
    """What the numbers stand for, in columns at the right of the paper."""
    names = [f"{n:>3} {r.layer}{'' if r.direction == 'c' else f', {KINDS[r.direction][1]}'}"
             for n, r in enumerate(shown, 1)]  # fmt: skip
    left = 1.01
    for start in range(0, len(names), ROWS):
        column = names[start : start + ROWS]
        figure.text(left, 0.97, "\n".join(column), fontsize=8, family="monospace", va="top")
        left += (max(map(len, column)) + 2) * LETTER / figure.get_figwidth()


def _intensity(result: Result) -> float:
    return result.flops / result.nbytes


def _rate(result: Result, contender: str) -> float:
    """In GFLOP/s."""
    return result.flops / result.times[contender].median / 1e9


def _roof(axes: Any, report: Report, shown: Sequence[Result]) -> None:
    """The two limits: memory, rising with the intensity, and arithmetic, level."""
    ridge, peak = report.peak / report.stream, report.peak / 1e9
    intensities = [ridge, *map(_intensity, shown)]
    low, high = min(*intensities, ridge / 4) / 1.5, max(*intensities, ridge * 4) * 1.5
    memory = f"limit of memory, {report.stream / 1e9:.0f} GB/s (caches can be faster)"
    axes.plot([low, ridge], [low * report.stream / 1e9, peak], "--", color=ROOF_COLOUR,
              label=memory)  # fmt: skip
    arithmetic = f"limit of multiply-adds, {peak:,.0f} GFLOP/s (Winograd and FFT need fewer)"
    axes.plot([ridge, high], [peak] * 2, color=ROOF_COLOUR, label=arithmetic)


def _point(axes: Any, result: Result) -> None:
    """convc filled, the best peer hollow, a line between the two."""
    marker, _ = KINDS[result.direction]
    place, rate = _intensity(result), _rate(result, OURS)
    if result.best:
        other = _rate(result, result.best)
        axes.plot([place] * 2, [rate, other], color="#bbbbbb", linewidth=0.8, zorder=1)
        axes.plot(place, other, marker, color=PEER_COLOUR, fillstyle="none", zorder=2)
    axes.plot(place, rate, marker, color=OURS_COLOUR, zorder=3)


def _number(axes: Any, shown: Sequence[Result]) -> None:
    """The number of each layer beside its point, where the fewest others are near."""
    points = [(_intensity(result), _rate(result, OURS)) for result in shown]
    rivals = [(_intensity(r), _rate(r, r.best)) for r in shown if r.best]
    taken = [tuple(axes.transData.transform(point)) for point in (*points, *rivals)]
    scale: float = axes.figure.dpi / 72

    def beside(point: tuple[float, float], away: tuple[int, int]) -> tuple[float, float]:
        x, y = map(float, axes.transData.transform(point))
        return x + away[0] * scale, y + away[1] * scale

    def room(point: tuple[float, float], away: tuple[int, int]) -> float:
        nearest = min(math.dist(beside(point, away), other) for other in taken)
        return min(nearest, 8.5 * scale)  # more is of no use

    for number, point in enumerate(points, 1):
        away = max(AWAY, key=partial(room, point))
        taken.append(beside(point, away))
        axes.annotate(str(number), point, xytext=away, textcoords="offset points", fontsize=8,
                      ha="center", va="center", color=OURS_COLOUR, zorder=4)  # fmt: skip


def _finish(axes: Any, report: Report, shown: Sequence[Result]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(xscale="log", yscale="log",
             xlabel="flops per byte of inputs, weights and outputs",
             ylabel="GFLOP/s (billion flops of the direct sum a second)")  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_formatter(NullFormatter())
    threads = report.how.threads
    axes.set_title(f"Roofline of {report.how.target.name} with {threads} "
                   f"thread{'s' * (threads != 1)}: higher is faster")  # fmt: skip
    axes.grid(True, which="major", color="#e5e5e5")
    contenders = [(OURS, OURS_COLOUR, "full")]
    if report.how.vs:
        contenders.append((f"best of {', '.join(report.how.vs)}", PEER_COLOUR, "none"))
    directions = [kind for kind in KINDS if any(result.direction == kind for result in shown)]
    for (name, colour, fill), kind in product(contenders, directions):
        marker, told = KINDS[kind]
        label = f"{name}, {told}" if len(directions) > 1 else name
        axes.plot([], [], marker, color=colour, fillstyle=fill, label=label)
    axes.figure.legend(loc="outside lower left", ncols=2, fontsize=9)
