"""Figures of a run, as PNG files and as SVG for a page: where the budget went, and how the training went."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from lorakit.artifacts.files import write_bytes
from lorakit.recipe.schema import SHORTCUTS
from lorakit.reporting.grid import Grid, Located, layer_name, site_grid
from lorakit.reporting.score_axis import score_limits
from lorakit.reporting.tables import counted

TILE = (0.07, 0.32, 0.60)
"""Coloured tiles, the smaller their value the more of the page they let through: light on a light page, dark on a dark one."""
INK, MUTED, RULE = "#1f2933", "#6b7785", "#d5dbe1"
LINES = ("#1f6fb2", "#c8642a", "#3a8f5c", "#7d5ba6")
THEME = {INK: "ink", MUTED: "muted", RULE: "rule", **{colour: f"line{n}" for n, colour in enumerate(LINES)}}
"""Colours that a page sets by its own variables, light or dark."""


def site_heatmap(timeline: Sequence[Mapping[str, Any]], sites: Sequence[Located], path: Path) -> Path:
    """Draw how often each site was on: the share of ticks in percent, layers by roles, with means beside and below.

    timeline: one record per tick, of which ``on`` (site names) is read; sites: every site that could be on. A pair of layer
    and role without a site stays blank. Writes ``path`` as PNG, makes its folder, and returns it.
    """
    ticks = len(timeline)
    times_on = {site.name: 0 for site in sites}
    for record in timeline:
        for name in record["on"]:
            times_on[name] += 1
    values = [times_on[site.name] / ticks if ticks else 0.0 for site in sites]
    usual = f"{sum(times_on.values()) / max(ticks, 1):.0f} of {len(sites)} sites at a time"
    return save(
        heat_map(sites, values, f"how often each site was on: percent of {counted(ticks, 'tick')}\n{usual}"), path
    )


def heat_map(
    sites: Sequence[Located], values: Sequence[float], title: str, *, top: float = 1.0, form: str = "{:.0%}"
) -> Figure:
    """One number per site as layers by roles, with means beside and below; a pair of layer and role without a site stays blank.

    top: the value with the strongest colour; form: how a value is written, of percentages without their sign.
    """
    grid = site_grid((site.layer, site.role, value) for site, value in zip(sites, values, strict=True))
    rows, columns = len(grid.layers), len(grid.roles)
    figure = canvas(1.6 + 0.62 * (columns + 1.3), 1.5 + 0.4 * (rows + 1.3))
    axes = figure.add_subplot()
    draw_cells(axes, grid, top, form)
    draw_means(axes, grid, form)
    axes.set_xlim(-0.5, columns + 0.8)
    axes.set_ylim(rows + 0.8, -0.5)
    axes.set_xticks([*range(columns), columns + 0.3], [*grid.roles, "mean"])
    axes.set_yticks([*range(rows), rows + 0.3], [*(layer_name(layer) for layer in grid.layers), "mean"])
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=9, colors=INK)
    axes.set_aspect("auto")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(title, fontsize=9.5, color=INK, pad=12, loc="left")
    return figure


def draw_cells(axes: Axes, grid: Grid, top: float, form: str) -> None:
    """One tile per site with its value in it, and a gap's worth of rule between projections and shortcuts."""
    for (layer, role), value in grid.values.items():
        x, y, share = grid.roles.index(role), grid.layers.index(layer), value / top if top else 0.0
        axes.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, facecolor=(*TILE, 0.07 + 0.93 * share)))
        write_number(axes, x, y, form.format(value), "white" if share > 0.7 else INK)
    first = next((index for index, role in enumerate(grid.roles) if role in SHORTCUTS), 0)
    if first:
        axes.plot([first - 0.5] * 2, [-0.5, len(grid.layers) - 0.5], color=MUTED, linewidth=1.0)


def draw_means(axes: Axes, grid: Grid, form: str) -> None:
    """Row, column and overall means, set off from the tiles and uncoloured."""
    rows, columns = len(grid.layers), len(grid.roles)
    for row, layer in enumerate(grid.layers):
        write_number(axes, columns + 0.3, row, form.format(grid.by_layer(layer)), MUTED)
    for column, role in enumerate(grid.roles):
        write_number(axes, column, rows + 0.3, form.format(grid.by_role(role)), MUTED)
    write_number(axes, columns + 0.3, rows + 0.3, form.format(grid.overall()), MUTED)


def write_number(axes: Axes, x: float, y: float, text: str, ink: str) -> None:
    """A number in the middle of the tile around (x, y)."""
    axes.text(x, y, text.removesuffix("%"), ha="center", va="center", fontsize=8.5, color=ink)


def training_curves(
    metrics: Sequence[Mapping[str, Any]], ticks: Sequence[int], path: Path, *, rows: int | None = None
) -> Path:
    """Draw the loss and every validation score over the optimiser steps, with the search's ticks as thin vertical lines.

    metrics: records ``{step, epoch, loss, lr}`` and ``{step, epoch, split, scores}``, in any order; ticks: their steps;
    rows: how many the validation split has, where that is known. The loss begins at 0, the scores as ``score_limits`` says.
    Writes ``path`` as PNG, makes its folder, and returns it.
    """
    return save(curves(metrics, ticks, rows=rows), path)


def curves(metrics: Sequence[Mapping[str, Any]], ticks: Sequence[int], *, rows: int | None = None) -> Figure:
    """The figure of ``training_curves``."""
    losses = sorted((record["step"], record["loss"]) for record in metrics if "loss" in record)
    lines: dict[str, list[tuple[int, float]]] = {}
    scored = [record for record in metrics if "scores" in record]
    several = len({record["split"] for record in scored}) > 1
    for record in scored:
        for metric, value in record["scores"].items():
            name = f"{record['split']} {metric}" if several else metric
            lines.setdefault(name, []).append((record["step"], value))
    figure = canvas(5.6, 4.8)  # so narrow that its letters can be read on a telephone
    upper, lower = figure.subplots(2, 1, sharex=True)
    draw_curve(upper, losses, LINES[0], marker="" if len(losses) > 1 else "o")
    upper.set_ylabel("training loss", color=INK)
    if losses and min(loss for _, loss in losses) >= 0:
        upper.set_ylim(0, 1.05 * max(loss for _, loss in losses) or 1.0)
    for index, (name, points) in enumerate(lines.items()):
        draw_curve(lower, sorted(points), LINES[index % len(LINES)], label=unmarked(name), marker="o")
    if limits := score_limits([value for points in lines.values() for _, value in points], rows):
        lower.set_ylim(*limits)
    lower.set_ylabel("validation", color=INK)
    lower.set_xlabel("optimiser step", color=INK)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if lines:
        lower.legend(frameon=False, fontsize=9, labelcolor=INK)
    for axes in (upper, lower):
        for tick in ticks:
            axes.axvline(tick, color=RULE, linewidth=0.8 if len(ticks) <= 30 else 0.3, zorder=0)
        bare(axes)
    if ticks:
        upper.set_title(f"vertical lines: {len(ticks)} search ticks", fontsize=9, color=MUTED, loc="right")
    return figure


def draw_curve(
    axes: Axes, points: Sequence[tuple[int, float]], colour: str, *, label: str = "", marker: str = ""
) -> None:
    """A line through (step, value) points."""
    steps, values = [step for step, _ in points], [value for _, value in points]
    axes.plot(steps, values, color=colour, linewidth=1.6, marker=marker, markersize=4, label=label)


def bare(axes: Axes) -> None:
    """Axes as the house draws them: no frame above and on the right, ink as on the page."""
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)


def unmarked(text: str) -> str:
    """A name from a file as it is: matplotlib reads what is between two dollar signs as mathematics."""
    return text.replace("$", r"\$")


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG at 150 dots per inch, whole or not at all."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format="png")
    write_bytes(path, drawn.getvalue())
    return path


def as_svg(figure: Figure, salt: str) -> str:
    """The figure as an ``<svg>`` element for a page: text as outlines, no background, THEME's colours as CSS variables.

    It is as wide as there is room, up to the figure's own width. salt: keeps the ids of several figures on one page apart. The same
    figure gives the same text.
    """
    drawn = io.StringIO()
    with rc_context({"svg.hashsalt": salt, "svg.fonttype": "path"}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    text = drawn.getvalue()
    text = re.sub(r"<!--.*?-->\s*|<style.*?</style>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    width = round(96 * figure.get_figwidth())
    text = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 style="max-width: {width}px">', text)
    text = re.sub(r'\bid="([^"]+)"', lambda found: f'id="{salt}-{found[1]}"', text)
    text = re.sub(r"(url\(|href=\")#", rf"\g<1>#{salt}-", text)
    for colour, name in THEME.items():
        text = text.replace(colour, f"var(--{name})")
    return text
