"""The figure of a sweep: the metric against the key that varies over numbers, a line for each value of what else varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.ticker import NullFormatter, NullLocator

from lorakit.reporting.figures import INK, LINES, MUTED, bare, canvas, save, unmarked

Lines = Mapping[str, Mapping[float, Sequence[float]]]  # label -> value of the key -> the metric, a run each
MOST_TICKS = 8
FAR = 10  # numbers whose ends are this far apart are drawn by their logarithm


def sweep_figure(lines: Lines, key: str, metric: str, path: Path, *, rises: bool = True, joined: bool = True) -> Path:
    """Draw ``metric`` after the last epoch against ``key``: runs as dots, means as marks with a deviation's bar up and down.

    The axis is logarithmic where the values are spaced by ratios. rises: whether larger is better; joined: whether means are joined by
    lines, as for a grid. Writes ``path`` as PNG, makes its folder, and returns it.
    """
    figure = canvas(6.4, 4.2)
    axes = figure.add_subplot()
    values = sorted({value for line in lines.values() for value in line})
    for place, (label, line) in enumerate(lines.items()):
        colour, numbers = LINES[place % len(LINES)], sorted(line)
        dots = [(number, score) for number in numbers for score in line[number]]
        axes.scatter(
            [at for at, _ in dots], [score for _, score in dots], s=14, color=colour, alpha=0.4, linewidths=0, zorder=2
        )
        means = [fmean(line[number]) for number in numbers]
        spreads = [stdev(line[number]) if len(line[number]) > 1 else 0.0 for number in numbers]
        axes.errorbar(
            numbers, means, spreads, fmt="D-" if joined else "D", color=colour, label=unmarked(label), markersize=4.5
        )
    if geometric(values):
        axes.set_xscale("log")
    if len(values) <= MOST_TICKS:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(unmarked(key), color=INK)
    axes.set_ylabel(f"{unmarked(metric)}, last epoch" + ("" if rises else " (lower is better)"), color=INK)
    axes.set_title("dots: runs; marks: means with their deviation", fontsize=8, color=MUTED, loc="left")
    if any(lines):
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    bare(axes)
    return save(figure, path)


def geometric(values: Sequence[float]) -> bool:
    """Whether rising numbers are spaced by ratios rather than by differences, or far apart: 4, 8, 16, not 1, 2, 3."""
    if len(values) < 2 or values[0] <= 0:
        return False
    ratios = [high / low for low, high in pairwise(values)]
    steps = [high - low for low, high in pairwise(values)]
    return values[-1] / values[0] >= FAR or max(ratios) / min(ratios) < max(steps) / min(steps)
