"""The accuracy of every task after every task, as tiles."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lorakit.reporting.figures import INK, MUTED, TILE, canvas, unmarked, write_number
from lorakit.reporting.transfer import Matrix
from lorakit.tasks.table import clipped


def accuracy_matrix(tasks: Sequence[str], matrix: Matrix) -> Figure:
    """A row after each task, a column for each task, in percent; what was scored before a task was learnt is pale."""
    number = len(tasks)
    figure = canvas(2.4 + 0.8 * number, 1.6 + 0.45 * number)
    axes = figure.add_subplot()
    for after, line in enumerate(matrix):
        for task, value in enumerate(line):
            if value is None:
                continue
            shade = 0.05 + 0.95 * value if task <= after else 0.05
            axes.add_patch(Rectangle((task - 0.47, after - 0.45), 0.94, 0.9, facecolor=(*TILE, shade)))
            ink = MUTED if task > after else "white" if shade > 0.7 else INK
            write_number(axes, task, after, f"{100 * value:.1f}", ink)
    names = [unmarked(clipped(name)) for name in tasks]
    axes.set_xlim(-0.5, number - 0.5)
    axes.set_ylim(number - 0.5, -0.5)
    axes.set_xticks(range(number), names, rotation=35, ha="right")
    axes.set_yticks(range(number), names)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.set_xlabel("accuracy on, in percent", color=INK)
    axes.set_ylabel("after learning", color=INK)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure
