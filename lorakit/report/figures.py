"""Figures of a run, as PNG files: where the budget went, and how the training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lorakit.backbone.site import SHORTCUTS, Site
from lorakit.report.grid import Grid, layer_name, site_grid

BLUES = "Blues"
INK, MUTED, RULE = "#1f2933", "#6b7785", "#d5dbe1"
LINES = ("#1f6fb2", "#c8642a", "#3a8f5c", "#7d5ba6")


def site_heatmap(timeline: Sequence[Mapping[str, Any]], sites: Sequence[Site], path: Path) -> Path:
    """Draw how often each site was on: the share of ticks in percent, layers by roles, with means beside and below.

    timeline: one record per tick, of which ``on`` (site names) is read; sites: every site that could be on. A pair of layer
    and role without a site stays blank. Writes ``path`` as PNG, makes its folder, and returns it.
    """
    ticks = len(timeline)
    times_on = {site.name: 0 for site in sites}
    for record in timeline:
        for name in record["on"]:
            times_on[name] += 1
    grid = site_grid((site.layer, site.role, times_on[site.name] / ticks if ticks else 0.0) for site in sites)
    rows, columns = len(grid.layers), len(grid.roles)
    figure = canvas(1.6 + 0.62 * (columns + 1.3), 1.5 + 0.4 * (rows + 1.3))
    axes = figure.add_subplot()
    draw_cells(axes, grid)
    draw_means(axes, grid)
    axes.set_xlim(-0.5, columns + 0.8)
    axes.set_ylim(rows + 0.8, -0.5)
    axes.set_xticks([*range(columns), columns + 0.3], [*grid.roles, "mean"])
    axes.set_yticks([*range(rows), rows + 0.3], [*(layer_name(layer) for layer in grid.layers), "mean"])
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=9, colors=INK)
    axes.set_aspect("auto")
    for side in axes.spines.values():
        side.set_visible(False)
    times = f"{ticks} tick{'' if ticks == 1 else 's'}"
    usual = f"{sum(times_on.values()) / max(ticks, 1):.0f} of {len(sites)} sites at a time"
    title = f"how often each site was on: percent of {times}\n{usual}"
    axes.set_title(title, fontsize=9.5, color=INK, pad=12, loc="left")
    return save(figure, path)


def draw_cells(axes: Axes, grid: Grid) -> None:
    """One tile per site with its share in it, and a gap's worth of rule between projections and shortcuts."""
    for (layer, role), share in grid.values.items():
        draw_tile(axes, grid.roles.index(role), grid.layers.index(layer), share, coloured=True)
    first = next((index for index, role in enumerate(grid.roles) if role in SHORTCUTS), 0)
    if first:
        axes.plot([first - 0.5] * 2, [-0.5, len(grid.layers) - 0.5], color=MUTED, linewidth=1.0)


def draw_means(axes: Axes, grid: Grid) -> None:
    """Row, column and overall means, set off from the tiles and uncoloured."""
    rows, columns = len(grid.layers), len(grid.roles)
    for row, layer in enumerate(grid.layers):
        draw_tile(axes, columns + 0.3, row, grid.by_layer(layer), coloured=False)
    for column, role in enumerate(grid.roles):
        draw_tile(axes, column, rows + 0.3, grid.by_role(role), coloured=False)
    draw_tile(axes, columns + 0.3, rows + 0.3, grid.overall(), coloured=False)


def draw_tile(axes: Axes, x: float, y: float, share: float, *, coloured: bool) -> None:
    """A tile around (x, y) with the share in percent; its ink turns light where the tile is dark."""
    from matplotlib import colormaps

    if coloured:
        axes.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, facecolor=colormaps[BLUES](0.04 + 0.86 * share)))
    ink = "white" if coloured and share > 0.7 else INK if coloured else MUTED
    axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=8.5, color=ink)


def training_curves(metrics: Sequence[Mapping[str, Any]], ticks: Sequence[int], path: Path) -> Path:
    """Draw the loss and every validation score over the optimiser steps, with the search's ticks as fine upright lines.

    metrics: records ``{step, epoch, loss, lr}`` and ``{step, epoch, split, scores}``, in any order; ticks: their steps.
    Writes ``path`` as PNG, makes its folder, and returns it.
    """
    losses = sorted((record["step"], record["loss"]) for record in metrics if "loss" in record)
    curves: dict[str, list[tuple[int, float]]] = {}
    scored = [record for record in metrics if "scores" in record]
    several = len({record["split"] for record in scored}) > 1
    for record in scored:
        for metric, value in record["scores"].items():
            name = f"{record['split']} {metric}" if several else metric
            curves.setdefault(name, []).append((record["step"], value))
    figure = canvas(7.2, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True)
    draw_curve(upper, losses, LINES[0])
    upper.set_ylabel("training loss", color=INK)
    for index, (name, points) in enumerate(curves.items()):
        draw_curve(lower, sorted(points), LINES[index % len(LINES)], label=name, marker="o")
    lower.set_ylabel("validation", color=INK)
    lower.set_xlabel("optimiser step", color=INK)
    if curves:
        lower.legend(frameon=False, fontsize=9, labelcolor=INK)
    for axes in (upper, lower):
        for tick in ticks:
            axes.axvline(tick, color=RULE, linewidth=0.8, zorder=0)
        axes.tick_params(labelsize=9, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
    if ticks:
        upper.set_title(f"upright lines: {len(ticks)} search ticks", fontsize=9, color=MUTED, loc="right")
    return save(figure, path)


def draw_curve(
    axes: Axes, points: Sequence[tuple[int, float]], colour: str, *, label: str = "", marker: str = ""
) -> None:
    """A line through (step, value) points."""
    steps, values = [step for step, _ in points], [value for _, value in points]
    axes.plot(steps, values, color=colour, linewidth=1.6, marker=marker, markersize=4, label=label)


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG at 150 dots per inch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")
    return path
