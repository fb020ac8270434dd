"""What runs learnt, and what other tasks kept, as one panel: the two sides of Biderman et al. 2024, section 4.3."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lorakit.reporting.analysis.records import RunAnalysis, TaskKept
from lorakit.reporting.figures import INK, LINES, MUTED, RULE, bare, canvas, unmarked
from lorakit.tasks.table import clipped

MARKS = "os^D"
"""Of runs, in the order of their colours."""
APART = 0.24  # runs in one task's row; two rows are 1 apart


def kept_figure(runs: Sequence[RunAnalysis]) -> Figure:
    """The change on each task, the runs' own at the top: a row a task, a colour and a mark a run, hollow for a random update."""
    probed = [(run.name, run.kept.tasks) for run in runs if run.kept is not None and run.kept.tasks]
    rows = sorted({(not task.own, task.name): None for _, tasks in probed for task in tasks}, key=lambda row: row[0])
    height = 1.0 + APART * (len(probed) - 1)
    figure = canvas(5.6, 1.2 + 0.42 * height * len(rows))
    axes = figure.add_subplot()
    axes.axvline(0, color=RULE, linewidth=1.0, zorder=0)
    if learnt := sum(not other for other, _ in rows) % len(rows):
        axes.axhline((learnt - 0.5) * height, color=RULE, linewidth=1.0, zorder=0)
    for place, (_, tasks) in enumerate(probed):
        for task in tasks:
            at = rows.index((not task.own, task.name)) * height + APART * (place - (len(probed) - 1) / 2)
            draw_task(axes, task, at, LINES[place % len(LINES)], MARKS[place % len(MARKS)])
    kinds = [f"{'other' if other else 'learnt'}: {unmarked(clipped(name))}" for other, name in rows]
    axes.set_yticks([place * height for place in range(len(rows))], kinds)
    axes.set_ylim((len(rows) - 0.45) * height, -0.55 * height)
    axes.set_xlabel("change in held-out rows that are right, in points", color=INK)
    bare(axes)
    axes.tick_params(axis="y", length=0)
    shown = [mark(MARKS[n % len(MARKS)], LINES[n % len(LINES)], name) for n, (name, _) in enumerate(probed)]
    random = any(task.random is not None for _, tasks in probed for task in tasks)
    handles = [*shown, *([mark("o", MUTED, "random update", fill="none")] if random else [])]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=min(3, len(handles)),
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
    )
    return figure


def mark(shape: str, colour: str, name: str, *, fill: str = "") -> Line2D:
    """An entry of the legend."""
    label = unmarked(clipped(name))
    return Line2D(
        [], [], marker=shape, color=colour, markerfacecolor=fill or colour, linewidth=0, markersize=6, label=label
    )


def draw_task(axes: Axes, task: TaskKept, at: float, colour: str, shape: str) -> None:
    """A change with its interval, and that of a random update."""
    mean, low, high = (100 * value for value in (task.change.mean, task.change.low, task.change.high))
    axes.plot([low, high], [at, at], color=colour, linewidth=1.4)
    axes.plot([mean], [at], shape, color=colour, markersize=6)
    if task.random_change is not None:
        axes.plot([100 * task.random_change.mean], [at], shape, color=colour, markerfacecolor="none", markersize=6)
