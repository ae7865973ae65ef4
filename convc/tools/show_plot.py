"""``convc show --at plan --plot``: the arena over the steps, a rectangle for each buffer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from convc.plan import Placed, Plan
from convc.tools.table import nbytes

COLOURS = ("#9ecae9", "#ffbf79", "#a5d99c", "#d6a5c9", "#f2d675", "#ffa8a3", "#83c5bd", "#d8b5a5")
OTHER, DARK, GREY = "#cfcac7", "#222222", "#777777"
JOINED = "several, in parts"  # what wrote the buffers that no step writes as a whole
IMAGES = "image by image"  # and those that the steps only read
UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))
PAGE = 180  # letters along the axis
NAMED = 24  # steps up to which the axis has their nodes' names
FONT = 7.5  # points; a letter is 0.55 as wide and a line 1.2 as high


def draw(plan: Plan, title: str, path: Path) -> None:
    """Write the picture to a file; `plotting.check` tells whether that can be done."""
    picture(plan, title).savefig(path, dpi=130)


def picture(plan: Plan, title: str) -> Any:
    """A figure: how much is alive at each step, and which part of the arena each buffer has."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):  # names may have a $
        return _picture(plan, title)


def _picture(plan: Plan, title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    above, axes = figure.subplots(2, sharex=True, height_ratios=(1, 4))
    unit, size = next((u, s) for u, s in UNITS if plan.arena_bytes >= s or s == 1)
    colours = _colours(plan)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=DARK)
    for each, label in ((above, f"alive, {unit}"), (axes, f"offset in the arena, {unit}")):
        _frame(each, plan, size, label)
    _steps(axes, plan)
    _alive(above, plan, size)
    bars = [_buffer(axes, placed, size, colours[placed.slot.number]) for placed in _placed(plan)]
    _legend(axes, colours)
    figure.draw_without_rendering()  # so that the sizes of the rectangles on paper are known
    for bar, placed in zip(bars, _placed(plan), strict=True):
        _label(axes, bar, placed)
    return figure


def _placed(plan: Plan) -> list[Placed]:
    return list(plan.temporaries.values())


def _writers(plan: Plan) -> dict[int, str]:
    """The algorithm that writes each buffer."""
    written = ((slot, step.algorithm) for step in plan.steps for slot in step.writes)
    return {slot: name for slot, name in written if slot in plan.temporaries}


def _colours(plan: Plan) -> Mapping[int, tuple[str, str]]:
    """For each buffer, what wrote it and the colour of that; the rarest are one class."""
    joined = {placed.slot.part[0] for placed in _placed(plan) if placed.slot.part}
    numbers = (placed.slot.number for placed in _placed(plan))
    unwritten = {number: JOINED if number in joined else IMAGES for number in numbers}
    writers = unwritten | _writers(plan)
    total = Counter[str]()
    for placed in _placed(plan):
        total[writers[placed.slot.number]] += placed.nbytes
    ranked = [name for name, _ in total.most_common()]
    shown = dict(zip(ranked, COLOURS, strict=False))
    return {n: (name, shown[name]) if name in shown else ("others", OTHER)
            for n, name in writers.items()}  # fmt: skip


def _frame(axes: Any, plan: Plan, size: int, label: str) -> None:
    """The steps along, the bytes upward, and a line where the arena ends."""
    axes.set(xlim=(0, max(len(plan.steps), 1)), ylim=(0, max(plan.arena_bytes, 1) / size * 1.04))
    axes.set_ylabel(label, color=DARK)
    axes.tick_params(length=0, colors=DARK)
    axes.grid(True, axis="y", color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.axhline(plan.arena_bytes / size, color=GREY, linestyle=(0, (5, 3)), linewidth=1)


def _steps(axes: Any, plan: Plan) -> None:
    """The axis of the steps: step n from n to n + 1; with the names of their nodes if few."""
    count = len(plan.steps)
    every = 1 if count <= 2 * NAMED else 5 if count <= 6 * NAMED else 25
    shown = range(0, count, every)
    labels = [f"{n} {plan.steps[n].node}" if count <= NAMED else str(n) for n in shown]
    crowded = max(map(len, labels), default=0) * len(labels) > PAGE
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks([n + 0.5 for n in shown], labels, fontsize=8, **slanted)
    axes.set_xlabel("step", color=DARK)


def _buffer(axes: Any, placed: Placed, size: int, colour: tuple[str, str]) -> Any:
    (bar,) = axes.bar(placed.first, placed.nbytes / size, placed.last + 1 - placed.first,
                      placed.offset / size, align="edge", color=colour[1], edgecolor="white",
                      linewidth=0.6, zorder=2)  # fmt: skip
    return bar


def _alive(axes: Any, plan: Plan, size: int) -> None:
    """The bytes alive at each step, and their peak."""
    levels = plan.alive
    peak = max(levels, default=0)
    axes.stairs([level / size for level in levels], range(len(levels) + 1), fill=True,
                facecolor="#e4e7eb", edgecolor=DARK, linewidth=1.2)  # fmt: skip
    if not peak:
        axes.text(0.5, 0.5, "nothing lies in the arena", transform=axes.transAxes, ha="center")
        return
    at = levels.index(peak)
    axes.plot(at + 0.5, peak / size, "o", color=DARK, markersize=5, clip_on=False)
    early = at < len(levels) / 2
    text = (f"most alive: {nbytes(peak)}, at step {at}, {plan.steps[at].node}; "
            f"arena: {nbytes(plan.arena_bytes)}")  # fmt: skip
    axes.annotate(text, (at + 0.5, peak / size), xytext=(0, 7), textcoords="offset points",
                  ha="left" if early else "right", fontsize=9, color=DARK)  # fmt: skip


def _legend(axes: Any, colours: Mapping[int, tuple[str, str]]) -> None:
    """What wrote the buffers of each colour."""
    from matplotlib.patches import Patch

    classes = sorted(set(colours.values()), key=lambda pair: (*COLOURS, OTHER).index(pair[1]))
    patches = [Patch(color=colour, label=name) for name, colour in classes]
    if patches:
        heading = Patch(visible=False, label="buffers written by")
        axes.legend(handles=[heading, *patches], loc="lower left", bbox_to_anchor=(-0.03, 1),
                    borderaxespad=0.2, ncols=len(patches) + 1, frameon=False, fontsize=9,
                    handlelength=1.2, columnspacing=1.6)  # fmt: skip


def _label(axes: Any, bar: Any, placed: Placed) -> None:
    """The name and size of a buffer, along or upright, where they fit into its rectangle."""
    (left, bottom), (right, top) = axes.transData.transform(bar.get_bbox().get_points())
    points = 72 / axes.figure.dpi
    width, height = (right - left) * points, (top - bottom) * points
    name, size = placed.slot.name, nbytes(placed.nbytes)
    forms = ((f"{name}\n{size}", 2), (f"{name}, {size}", 1), (name, 1))
    for upright, (text, lines) in chain(((0, f) for f in forms), ((90, f) for f in forms)):
        long, high = (height, width) if upright else (width, height)
        longest = max(map(len, text.split("\n")))
        if longest * 0.55 * FONT < long and lines * 1.2 * FONT < high:
            centre = bar.get_bbox().get_points().mean(0)
            axes.text(*centre, text, ha="center", va="center", rotation=upright, fontsize=FONT,
                      color=DARK, zorder=3)  # fmt: skip
            return
