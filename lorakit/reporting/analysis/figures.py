"""The figures of an analysis: updates by role and layer, magnitude against direction, drift of features, shared directions."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lorakit.reporting.analysis.records import LAST, Pair, RunAnalysis, SiteUpdate, by_role
from lorakit.reporting.analysis.words import SIDE_WORDS
from lorakit.reporting.figures import INK, LINES, MUTED, RULE, bare, canvas, unmarked

ACROSS = 3  # panels beside each other
FEW_POWERS = 50
UNMOVED = 1e-6  # what is drawn for less, on a logarithmic axis


def panels_by_role(
    sites: Sequence[SiteUpdate], height: float
) -> tuple[Figure, list[tuple[Axes, str, list[SiteUpdate]]]]:
    """A figure with a panel for each role that these have: the axes, the role, and its sites."""
    roles = by_role(sites, lambda site: site.role)
    across = min(ACROSS, len(roles))
    down = ceil(len(roles) / across)
    figure = canvas(max(2.5 * across, 4.4) + 0.4, height * down + 0.5)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten().tolist()
    for spare in panels[len(roles) :]:
        spare.set_visible(False)
    for number, panel in enumerate(panels[: len(roles)]):
        bare(panel)
        panel.tick_params(labelbottom=number + across >= len(roles))
        panel.set_title(unmarked(roles[number][0]), fontsize=9, color=INK, loc="left", pad=3)
    return figure, [(panel, role, own) for panel, (role, own) in zip(panels, roles, strict=False)]


def amplification_figure(sites: Sequence[SiteUpdate]) -> Figure:
    """Own, W's strongest and random directions over the layers, a panel per role."""
    figure, panels = panels_by_role(sites, 1.9)
    kinds = (
        ("amplification_random", "random", LINES[3], "--", ""),
        ("amplification", "own", LINES[0], "-", "o"),
        ("amplification_top", "W's strongest", LINES[1], "--", ""),
    )
    for panel, _, own in panels:
        for name, label, colour, style, marker in kinds:
            points = sorted((site.layer, getattr(site, name)) for site in own)
            marker = marker or ("_" if len(points) == 1 else "")
            panel.plot(
                *zip(*points, strict=True), style, color=colour, marker=marker, markersize=4, linewidth=1.4, label=label
            )
        logarithmic(panel)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.supxlabel("layer", fontsize=9, color=INK)
    figure.supylabel("||dW|| / ||U$^T$W V||", fontsize=9, color=INK)
    legend_above(figure, panels[0][0], 3)
    return figure


def spectrum_figure(sites: Sequence[SiteUpdate]) -> Figure:
    """Singular values as parts of the largest, a panel per role, a line per layer."""
    figure, panels = panels_by_role(sites, 1.9)
    deepest = max(1, *(site.layer for site in sites))
    for panel, _, own in panels:
        for site in own:
            places = np.arange(1, site.directions + 1)
            strength = 0.25 + 0.75 * max(site.layer, 0) / deepest
            panel.plot(
                places,
                np.array(site.values) / site.values[0],
                color=LINES[0],
                alpha=strength,
                linewidth=1.2,
                marker=".",
                markersize=3,
            )
        drawn = max(own, key=lambda site: site.directions)
        chance = np.array(drawn.chance_values) / drawn.chance_values[0]
        panel.plot(np.arange(1, len(chance) + 1), chance, "--", color=LINES[3], linewidth=1.2)
        logarithmic(panel)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.supxlabel("number of the singular value", fontsize=9, color=INK)
    figure.supylabel("part of the largest", fontsize=9, color=INK)
    return figure


def moved_figure(runs: Sequence[RunAnalysis]) -> Figure:
    """dM against dD, a panel a run."""
    across = min(ACROSS, len(runs))
    down = ceil(len(runs) / across)
    figure = canvas(max(2.9 * across, 4.4), 2.7 * down + 0.5)
    panels = figure.subplots(down, across, squeeze=False).flatten().tolist()
    for spare in panels[len(runs) :]:
        spare.set_visible(False)
    for panel, run in zip(panels, runs, strict=False):
        draw_moved(panel, run)
    figure.supxlabel("dD: how far rows have turned, mean of 1 - cos", fontsize=9, color=INK)
    figure.supylabel("dM: mean change of rows' norms", fontsize=9, color=INK)
    legend_above(figure, panels[0], 3)
    return figure


def draw_moved(axes: Axes, run: RunAnalysis) -> None:
    """One run's points, their line, and those of random updates."""
    axes.plot(
        [each.random_direction for each in run.moved],
        [each.random_magnitude for each in run.moved],
        "x",
        color=MUTED,
        markersize=3.5,
        alpha=0.7,
        linewidth=0,
        label="random",
    )
    for label, fill, chosen in (
        ("on the way", "none", [each for each in run.moved if each.when != LAST]),
        ("at the end", LINES[0], [each for each in run.moved if each.when == LAST]),
    ):
        axes.plot(
            [each.direction for each in chosen],
            [each.magnitude for each in chosen],
            "o",
            color=LINES[0],
            markerfacecolor=fill,
            markersize=4,
            linewidth=0,
            label=label,
        )
    told = "too few points" if run.correlation is None else f"r = {run.correlation:+.2f}"
    random = run.random_correlation
    told += "" if random is None else f"   random {random:+.2f}"
    if run.correlation is not None:
        directions = [each.direction for each in run.moved]
        slope, start = np.polyfit(directions, [each.magnitude for each in run.moved], 1)
        ends = np.array([min(directions), max(directions)])
        axes.plot(ends, slope * ends + start, color=LINES[1], linewidth=1.2)
    axes.set_title(f"{unmarked(run.name)} ({run.method})\n{told}", fontsize=9, color=INK, loc="left", pad=4)
    axes.ticklabel_format(style="sci", scilimits=(-2, 3))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.offsetText.set_fontsize(8)
    axes.yaxis.offsetText.set_fontsize(8)
    bare(axes)


def drift_figure(runs: Sequence[RunAnalysis]) -> Figure:
    """1 - CKA over the layers, a line a run, and what rows in another order have."""
    figure = canvas(5.6, 3.2)
    axes = figure.add_subplot()
    for number, run in enumerate(runs):
        layers, colour = [each.layer for each in run.drift], LINES[number % len(LINES)]
        draw_distance(axes, layers, [each.cka for each in run.drift], colour, unmarked(run.name))
        label = "rows that do not belong together" if number == len(runs) - 1 else ""
        draw_distance(
            axes, layers, [each.chance for each in run.drift], colour if len(runs) > 1 else MUTED, label, "--"
        )
    logarithmic(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("layer", color=INK)
    axes.set_ylabel("1 - linear CKA with before", color=INK)
    bare(axes)
    legend_above(figure, axes, 2)
    return figure


def draw_distance(
    axes: Axes, layers: Sequence[int], alike: Sequence[float], colour: str, label: str, style: str = "-"
) -> None:
    """1 - CKA over the layers."""
    marker = "o" if style == "-" else ""
    apart = [max(1 - each, UNMOVED) for each in alike]
    axes.plot(
        layers, apart, style, color=colour, marker=marker, markersize=4, linewidth=1.6 if marker else 1.1, label=label
    )


def likeness_figure(pair: Pair) -> Figure:
    """phi(i, j) of every side, and of random subspaces beside it."""
    rows = len(pair.sides)
    figure = canvas(5.6, 2.2 * rows + 0.5)
    panels = figure.subplots(rows, 2, squeeze=False)
    image = None
    for (measured, random), side in zip(panels, pair.sides, strict=True):
        for axes, grid, title in (
            (measured, side.mean, SIDE_WORDS[side.side]),
            (random, side.chance, "random subspaces"),
        ):
            image = draw_grid(axes, grid)
            axes.set_title(title, fontsize=9, color=INK, loc="left", pad=3)
    if image is not None:
        bar = figure.colorbar(image, ax=panels, shrink=0.7, pad=0.02)
        bar.ax.tick_params(labelsize=8, colors=INK)
        bar.outline.set_edgecolor(RULE)
    figure.supxlabel(f"j: first directions of {unmarked(pair.second)}", fontsize=9, color=INK)
    figure.supylabel(f"i: first directions of {unmarked(pair.first)}", fontsize=9, color=INK)
    return figure


def draw_grid(axes: Axes, grid: Sequence[Sequence[float]]) -> AxesImage:
    """phi (m x n) as tiles from 0 to 1."""
    values = np.array(grid)
    m, n = values.shape
    image = axes.imshow(
        values,
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0.5, n + 0.5, m + 0.5, 0.5),
    )
    axes.tick_params(labelsize=8, colors=INK, length=2)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.spines[:].set_color(RULE)
    return image


def logarithmic(axes: Axes) -> None:
    """A logarithmic y axis, once all is drawn, with plain numbers: at 2 and 5 of a power of ten too where there are few of these."""
    axes.set_yscale("log")
    axes.tick_params(axis="y", which="both", labelsize=9)
    low, high = axes.get_ylim()
    between = "25" if high / low < FEW_POWERS else ""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in between else ""))


def legend_above(figure: Figure, axes: Axes, columns: int) -> None:
    """The names of what these axes have, above all panels."""
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=columns, frameon=False, fontsize=8.5, labelcolor=INK)
