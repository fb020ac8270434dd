"""The figure of a comparison: every side's runs with their mean, and beside it the differences to the first, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from lorakit.reporting.figures import INK, LINES, MUTED, RULE, bare, canvas, save, unmarked
from lorakit.reporting.stats import mean_interval

Values = Mapping[str, Mapping[int, float]]  # side -> seed -> value
JITTER = 0.16  # of a row, between the first and the last seed: dots of one value stay apart


def comparison_figure(sides: Values, metric: str, path: Path, *, reference: str, rises: bool = True) -> Path:
    """Draw ``metric`` of every run after its last epoch, a row a side, with means and their 95 % bootstrap intervals.

    sides: side -> seed -> value; reference: the side that the others are compared to, over the seeds that both have. The right half,
    the differences, is left out where there are none. rises: whether larger is better. Writes ``path`` as PNG, makes its folder, and
    returns it.
    """
    first = sides.get(reference, {})
    gaps = {
        name: {seed: value - first[seed] for seed, value in values.items() if seed in first}
        for name, values in sides.items()
        if name != reference
    }
    differ = any(gaps.values())
    figure = canvas(9.6 if differ else 5.6, 1.4 + 0.42 * max(len(sides), 2))
    left, *right = figure.subplots(1, 2 if differ else 1, sharey=True, squeeze=False)[0]
    names = list(sides)
    draw_rows(left, [sides[name] for name in names], LINES[0])
    left.set_yticks(range(len(names)), [unmarked(name) for name in names])
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlabel(f"{metric}, last epoch" + ("" if rises else " (lower is better)"), color=INK, fontsize=9)
    for axes in right:
        draw_rows(axes, [gaps.get(name, {}) for name in names], LINES[1])
        axes.axvline(0, color=MUTED, linewidth=0.9, zorder=1)
        axes.set_xlabel(f"difference to {unmarked(reference)}, seed by seed", color=INK, fontsize=9)
    left.set_title("dots: seeds; bars: 95 % bootstrap interval of the mean", fontsize=8, color=MUTED, loc="left")
    return save(figure, path)


def draw_rows(axes: Axes, rows: Sequence[Mapping[int, float]], colour: str) -> None:
    """A row of dots for each mapping, and the mean with its interval where there are several."""
    for row, values in enumerate(rows):
        axes.axhline(row, color=RULE, linewidth=0.6, zorder=0)
        if not values:
            continue
        points = [values[seed] for seed in sorted(values)]
        step = JITTER / max(len(points) - 1, 1)
        heights = [row + 0.2 + step * (place - (len(points) - 1) / 2) for place in range(len(points))]
        axes.scatter(points, heights, s=16, color=colour, alpha=0.55, linewidths=0, zorder=2)
        mean, (low, high) = sum(points) / len(points), mean_interval(points)
        axes.plot([low, high], [row - 0.1] * 2, color=colour, linewidth=2.2, solid_capstyle="butt", zorder=3)
        axes.plot([mean], [row - 0.1], marker="D", markersize=5, color=colour, markeredgecolor="white", zorder=4)
    bare(axes)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
