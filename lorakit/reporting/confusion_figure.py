"""Which classes are taken for which, as tiles."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lorakit.reporting.figures import INK, TILE, canvas, unmarked, write_number
from lorakit.tasks.table import clipped

LONGEST = 24  # letters of a class's name


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """Rows by the label they have (down) and the label they got (across), each coloured by its share of the label's rows.

    The share is taken at the lower end of its Wilson interval of 95 % (scipy), so that two rows of a rare label do not shine as two
    hundred of another do; beside each label stands how many rows have it.
    """
    number = len(labels)
    figure = canvas(2.6 + 0.7 * number, 1.8 + 0.45 * number)
    axes = figure.add_subplot()
    for y, line in enumerate(counts):
        for x, count in enumerate(line):
            share = sure_share(count, sum(line))
            axes.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, facecolor=(*TILE, 0.05 + 0.95 * share)))
            write_number(axes, x, y, f"{count:,}", "white" if share > 0.7 else INK)
    axes.set_xlim(-0.5, number - 0.5)
    axes.set_ylim(number - 0.5, -0.5)
    names = [unmarked(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…") for name in map(clipped, labels)]
    axes.set_xticks(range(number), names, rotation=35, ha="right")
    axes.set_yticks(range(number), [f"{name} ({sum(line):,})" for name, line in zip(names, counts, strict=True)])
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.set_xlabel("answer", color=INK)
    axes.set_ylabel("label", color=INK)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def sure_share(count: int, of: int) -> float:
    """The lower end of the 95 % interval of the share ``count`` of ``of``; 0 of none."""
    from scipy.stats import binomtest

    return float(binomtest(count, of).proportion_ci(method="wilson").low) if count else 0.0
