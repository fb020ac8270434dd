"""The figures of an analysis, each with what it shows in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lorakit.reporting.analysis.records import LAST, Likeness, Pair, RunAnalysis, SiteUpdate, by_role, correlated
from lorakit.reporting.analysis.words import SIDE_WORDS
from lorakit.reporting.figures import INK, LINES, MUTED, RULE, bare, canvas, heat_map, unmarked
from lorakit.reporting.page_figures import Drawing
from lorakit.reporting.tables import percent

ACROSS = 3  # panels beside each other
UNMOVED = 1e-6  # what is drawn for less, on a logarithmic axis


def drawings(runs: Sequence[RunAnalysis], pairs: Sequence[Pair]) -> Iterator[Drawing]:
    """All that the runs have the numbers for, in the page's order."""
    for number, pair in enumerate(pairs, 1):
        yield likeness_drawing(pair, f"likeness{number if len(pairs) > 1 else ''}")
    moved = [run for run in runs if run.moved]
    if moved:
        yield moved_drawing(moved)
    if any(run.drift for run in runs):
        yield drift_drawing([run for run in runs if run.drift])
    for run in runs:
        if run.sites:
            prefix, whose = (f"{run.name}-", f"{run.name}: ") if len(runs) > 1 else ("", "")
            yield from own_drawings(run, prefix, whose)


def own_drawings(run: RunAnalysis, prefix: str, whose: str) -> Iterator[Drawing]:
    """Those of one run's updates."""
    weighed = [site for site in run.sites if site.relative is not None]
    if weighed:
        values = [site.relative or 0.0 for site in weighed]
        most = max(weighed, key=lambda site: site.relative or 0.0)
        yield Drawing(
            f"{prefix}norms",
            heat_map(weighed, values, "||dW|| / ||W|| in percent", top=max(values), form="{:.1%}"),
            f"{whose}Which sites carry the update",
            f"Layers by roles, updates' norms in percent of the weights'. The largest: {most.name}, {percent(most.relative or 0.0)}.",
            "Frobenius norms, in percent of the pretrained weight's, with means over roles and layers.",
        )
        yield Drawing(
            f"{prefix}amplification",
            amplification_figure([site for site in weighed if site.amplification]),
            f"{whose}What the update amplifies",
            "A panel per role: over the layers, how many times as large dW is as W in its own directions, W's strongest and random ones.",
            "How many times as large dW is as W in dW's own directions. It would be at the lower line if these were W's strongest "
            "directions, at the upper one if they were random. Logarithmic.",
        )
    yield Drawing(
        f"{prefix}ranks",
        heat_map(
            run.sites,
            [site.effective_rank for site in run.sites],
            f"effective rank\nrandom ones of the same rank: {np.mean([site.chance_rank for site in run.sites]):.1f}",
            top=max(site.effective_rank for site in run.sites),
            form="{:.1f}",
        ),
        f"{whose}How many directions each update uses",
        "Layers by roles, the effective rank of each update.",
        "exp of the entropy of the singular values: k for k equal ones. Random: Gaussian updates of the same shapes and ranks.",
    )
    yield Drawing(
        f"{prefix}spectra",
        spectrum_figure(run.sites),
        f"{whose}Singular values",
        "A panel per role with a falling line for each layer: its singular values as parts of the largest.",
        "Each line is a layer, dark ones are the higher: the singular values as parts of the largest. Dashed: a random update of the "
        "same shape and rank. Logarithmic.",
    )


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
        panel.set_yscale("log")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.supxlabel("layer", fontsize=9, color=INK)
    figure.supylabel("||dW|| / ||U$^T$W V||", fontsize=9, color=INK)
    figure.legend(
        *panels[0][0].get_legend_handles_labels(),
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
    )
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
        panel.set_yscale("log")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.supxlabel("number of the singular value", fontsize=9, color=INK)
    figure.supylabel("part of the largest", fontsize=9, color=INK)
    return figure


def moved_drawing(runs: Sequence[RunAnalysis]) -> Drawing:
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
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
    )
    told = [
        f"{run.name} ({run.method}) " + ("has none" if run.correlation is None else f"{run.correlation:+.2f}")
        for run in runs
    ]
    return Drawing(
        "moved",
        figure,
        "Magnitude and direction",
        f"A panel per run: the change of magnitude against that of direction, of every site and point. Correlations: {', '.join(told)}.",
        "Each point is a site at one point of the training; its line is the least-squares one through all. Grey: random updates of the "
        "same ranks and norms.",
    )


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
    random = correlated(run.moved, random=True)
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


def drift_drawing(runs: Sequence[RunAnalysis]) -> Drawing:
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
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("layer", color=INK)
    axes.set_ylabel("1 - linear CKA with before", color=INK)
    bare(axes)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5, labelcolor=INK)
    ends = ", ".join(f"{run.name} {run.drift[-1].cka:.3f}" for run in runs)
    return Drawing(
        "drift",
        figure,
        "How far features have moved",
        f"1 less the linear CKA of each layer's output before and after the training. CKA at the last layer: {ends}.",
        f"0, drawn as {UNMOVED:g}: the same but for a rotation and a scale. A text's features are the mean over its tokens. Logarithmic.",
    )


def draw_distance(
    axes: Axes, layers: Sequence[int], alike: Sequence[float], colour: str, label: str, style: str = "-"
) -> None:
    """1 - CKA over the layers."""
    marker = "o" if style == "-" else ""
    apart = [max(1 - each, UNMOVED) for each in alike]
    axes.plot(
        layers, apart, style, color=colour, marker=marker, markersize=4, linewidth=1.6 if marker else 1.1, label=label
    )


def likeness_drawing(pair: Pair, name: str) -> Drawing:
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
    return Drawing(
        name,
        figure,
        f"Which directions {pair.first} and {pair.second} share",
        f"For each side a tile for each pair of i and j, coloured by phi(i, j). {corner(pair.sides[-1])}",
        "phi(i, j) from 0 (white) to 1 (dark), the mean over sites: how far i directions of one lie in j of the other. On "
        "the right what random subspaces of the same width have.",
    )


def corner(side: Likeness) -> str:
    """The first entry in words."""
    return f"Of the outputs' first directions it is {side.mean[0][0]:.2f}, of random ones {side.chance[0][0]:.3f}."


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
