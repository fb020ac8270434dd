"""What runs learnt against what other tasks kept, as one panel: the trade-off of Biderman et al. 2024, section 4.3."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lorakit.reporting.analysis.records import RunAnalysis, TaskKept
from lorakit.reporting.figures import INK, LINES, MUTED, RULE, bare, canvas, unmarked
from lorakit.reporting.stats import Difference

MARKERS = "os^Dv<>p"


def own_and_others(run: RunAnalysis) -> tuple[TaskKept, list[TaskKept]] | None:
    """A run's own task and the others, where it has both."""
    tasks = run.kept.tasks if run.kept is not None else []
    own, others = [task for task in tasks if task.own], [task for task in tasks if not task.own]
    return (own[0], others) if own and others else None


def kept_figure(runs: Sequence[RunAnalysis]) -> Figure:
    """Each other task's change against the run's own, in points: a colour a run, a mark a task, hollow for a random update."""
    pairs = [(run, *pair) for run in runs if (pair := own_and_others(run)) is not None]
    names = list(dict.fromkeys(task.name for _, _, others in pairs for task in others))
    marks = {name: MARKERS[place % len(MARKERS)] for place, name in enumerate(names)}
    figure = canvas(5.6, 4.2)
    axes = figure.add_subplot()
    axes.axhline(0, color=RULE, linewidth=1.0, zorder=0)
    axes.axvline(0, color=RULE, linewidth=1.0, zorder=0)
    random = False
    for place, (_, own, others) in enumerate(pairs):
        colour = LINES[place % len(LINES)]
        for task in others:
            draw_point(axes, own.change, task.change, marks[task.name], colour)
            if own.random_change is not None and task.random_change is not None:
                random = True
                x, y = 100 * own.random_change.mean, 100 * task.random_change.mean
                axes.plot(x, y, marks[task.name], color=colour, markerfacecolor="none", markersize=6, linewidth=0)
    axes.set_xlabel("learnt: change on its own task, in points", color=INK)
    axes.set_ylabel("kept: change on other tasks, in points", color=INK)
    bare(axes)
    handles = [mark("s", LINES[place % len(LINES)], run.name) for place, (run, _, _) in enumerate(pairs)]
    handles += [mark(marks[name], MUTED, name) for name in names]
    handles += [mark("o", MUTED, "random update", fill="none")] * random
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=min(4, len(handles)),
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
    )
    return figure


def mark(shape: str, colour: str, name: str, *, fill: str = "") -> Line2D:
    """An entry of the legend."""
    return Line2D(
        [],
        [],
        marker=shape,
        color=colour,
        markerfacecolor=fill or colour,
        linewidth=0,
        markersize=6,
        label=unmarked(name),
    )


def draw_point(axes: Axes, learnt: Difference, kept: Difference, shape: str, colour: str) -> None:
    """A point with its two intervals."""
    (x, xs), (y, ys) = reach(learnt), reach(kept)
    axes.errorbar(x, y, ys, xs, fmt=shape, color=colour, markersize=6, elinewidth=0.9, capsize=0)


def reach(found: Difference) -> tuple[float, list[list[float]]]:
    """A difference in points, and how far its interval reaches below and above it."""
    mean, low, high = (100 * value for value in (found.mean, found.low, found.high))
    return mean, [[mean - low], [high - mean]]
