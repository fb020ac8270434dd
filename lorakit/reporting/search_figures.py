"""Figures of a search: what was on over time, how sites were scored, what changed, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lorakit.reporting.figures import INK, LINES, MUTED, RULE, bare, canvas, unmarked
from lorakit.reporting.grid import role_position
from lorakit.reporting.history import History, Numbers
from lorakit.reporting.stability import Stability

OFF = (0.5, 0.54, 0.59, 0.22)
"""What is off, on white and on black paper: grey, most of it let through."""
CROWDED = 24
"""Up to so many ticks there is room for large marks."""
WIDE_RANGE = 20
"""From this ratio of the largest to the smallest score on their axis is logarithmic."""


def over_time(history: History) -> Figure:
    """What was on at each tick, or with which rank: a panel per role, of layers by ticks.

    Several sites of one role and layer give one row with their mean.
    """
    roles = sorted({site.role for site in history.sites}, key=role_position)
    layers = sorted({site.layer for site in history.sites})
    columns = min(4, len(roles))
    rows = ceil(len(roles) / columns)
    figure = canvas(2.15 * columns + 0.9, rows * (0.62 + max(0.095 * len(layers), 0.7)) + 0.6)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    values, top = history.level, float(history.level.max()) if history.ranked else 1.0
    colours = graded() if history.ranked else colormaps["Blues"]
    for panel, role in zip(panels, roles, strict=False):
        cells = np.full((len(layers), len(history.ticks)), np.nan)
        for row, layer in enumerate(layers):
            members = [n for n, site in enumerate(history.sites) if (site.role, site.layer) == (role, layer)]
            if members:
                cells[row] = values[members].mean(axis=0)
        draw_panel(panel, cells, top, colours, history.ranked)
        on = np.array([site.role == role for site in history.sites])
        level = f"rank {history.live[on].mean():.1f}" if history.ranked else f"{history.on[on].mean():.0%} on"
        panel.set_title(f"{unmarked(role)}   {level}", fontsize=9, color=INK, loc="left", pad=3)
        panel.set_yticks(*layer_ticks(layers))
    for panel in panels[len(roles) :]:
        panel.set_visible(False)
    for column in range(columns):
        under = panels[[n for n in range(len(roles)) if n % columns == column][-1]]
        under.tick_params(labelbottom=True)
        under.set_xticks(*step_ticks(history.steps))
    figure.supxlabel("optimiser step of the tick", fontsize=9, color=INK)
    figure.supylabel("layer", fontsize=9, color=INK)
    draw_key(figure, panels[: len(roles)].tolist(), history.ranked, top, colours)
    return figure


def draw_panel(axes: Axes, cells: Numbers, top: float, colours: Colormap, ranked: bool) -> None:
    """One role's cells (layers, ticks): NaN is no site, 0 is off."""
    shares = np.nan_to_num(cells) / (top or 1.0)
    painted = np.array(colours(shares if ranked else 0.72 * shares))
    painted[cells == 0] = OFF
    painted[np.isnan(cells)] = 0.0
    axes.imshow(painted, aspect="auto", interpolation="nearest", resample=False)
    axes.tick_params(labelsize=8, colors=INK, length=2)
    for edge in np.arange(1, cells.shape[0]) - 0.5:
        axes.axhline(edge, color=RULE, linewidth=0.5, alpha=0.6 if cells.shape[0] <= 12 else 0.0)
    axes.spines[:].set_color(RULE)


def draw_key(figure: Figure, panels: Sequence[Axes], ranked: bool, top: float, colours: Colormap) -> None:
    """What the colours mean, above the panels."""
    handles = [Patch(facecolor=OFF, label="off")]
    if ranked:
        marks = sorted({1, round(top / 2) or 1, round(top)})
        handles += [Patch(facecolor=colours(mark / top), label=f"rank {mark}") for mark in marks]
    else:
        handles.append(Patch(facecolor=colours(0.72), label="on"))
    figure.legend(
        handles=handles,
        loc="outside upper right",
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        handlelength=1.2,
        columnspacing=1.4,
    )


def graded() -> Colormap:
    """Ranks: from light blue to crimson, ever darker, and never as dark as a dark page: all stand out from OFF on both."""
    return LinearSegmentedColormap.from_list("ranks", ["#9ccbe8", "#6d8fd6", "#7a52b8", "#b0165a"])


def layer_ticks(layers: Sequence[int]) -> tuple[list[int], list[str]]:
    """Rows and names of at most eight layers, evenly spaced."""
    rows = list(range(0, len(layers), ceil(len(layers) / 8)))
    return rows, [str(layers[row]) if layers[row] >= 0 else "model" for row in rows]


def step_ticks(steps: Sequence[int]) -> tuple[list[int], list[str]]:
    """Columns and optimiser steps of at most four ticks, the first one among them."""
    columns = list(range(0, len(steps), ceil(len(steps) / 4)))
    return columns, [str(steps[column]) for column in columns]


def score_spread(history: History) -> Figure:
    """The scores at each tick: range, middle half and median of the sites that were chosen and of the others, and the cut."""
    figure = canvas(7.6, 3.8)
    axes = figure.add_subplot()
    scores = history.scores
    places = np.arange(len(history.ticks))
    size = 4.5 if places.size <= CROWDED else 2.0
    for chosen, colour, shift, marker, label in (
        (history.on, LINES[0], 0.17, "o", "chosen"),
        (~history.on, LINES[1], -0.17, "s", "not chosen"),
    ):
        for place in places:
            some = scores[chosen[:, place] & np.isfinite(scores[:, place]), place]
            if some.size == 0:
                continue
            low, first, middle, third, high = np.quantile(some, (0, 0.25, 0.5, 0.75, 1))
            axes.plot([place + shift] * 2, [low, high], color=colour, linewidth=1.0, alpha=0.8)
            axes.plot(
                [place + shift] * 2, [first, third], color=colour, linewidth=4.0, solid_capstyle="butt", alpha=0.8
            )
            axes.plot(
                place + shift,
                middle,
                marker=marker,
                markersize=size,
                color=colour,
                markeredgecolor="white",
                mew=size / 6,
            )
        axes.plot([], [], color=colour, marker=marker, linewidth=4.0, markersize=4.5, label=label)
    for tick, place in zip(history.ticks, places, strict=True):
        if tick.cut is not None:
            axes.plot([place - 0.38, place + 0.38], [tick.cut] * 2, color=INK, linewidth=1.2)
    if any(tick.cut is not None for tick in history.ticks):
        axes.plot([], [], color=INK, linewidth=1.2, label="cut: the lowest score that is on")
    axes.set_xlim(-0.6, len(places) - 0.4)
    scale_scores(axes, scores[np.isfinite(scores)])
    axes.set_xticks(*(step_ticks(history.steps) if len(places) > 12 else (list(places), list(map(str, history.steps)))))
    axes.set_xlabel("optimiser step of the tick", color=INK)
    axes.set_ylabel(f"score by {unmarked(history.ticks[-1].proxy)}", color=INK)
    bare(axes)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def scale_scores(axes: Axes, scores: Numbers) -> None:
    """A logarithmic axis where scores are spread widely, linear around zero where some are not positive."""
    sizes = np.abs(scores[scores != 0])
    if sizes.size == 0 or sizes.max() / sizes.min() < WIDE_RANGE:
        return
    if (scores > 0).all():
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=float(np.quantile(sizes, 0.05)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def changes(history: History, stability: Stability) -> Figure:
    """What changed at each tick against the one before it: churn, moved rank where ranks vary, and the rank correlation."""
    steps = history.steps[1:]
    with_scores = bool(stability.correlations)
    figure = canvas(7.6, 4.6 if with_scores else 2.7)
    panels = figure.subplots(1 + with_scores, 1, sharex=True, squeeze=False).flatten()
    upper = panels[0]
    draw = {"linewidth": 1.6, "markersize": 4, "clip_on": False}
    upper.plot(steps, stability.churn, color=LINES[0], marker="o", label="churn: sites that went off", **draw)
    if history.ranked:
        upper.plot(steps, stability.moved, color=LINES[1], marker="s", label="rank units that moved", **draw)
        upper.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    upper.set_ylim(0, max(*stability.churn, *stability.moved, 0.1) * 1.1)
    upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    upper.set_ylabel(
        "share of the tick before" if history.ranked else "churn: share of\nthe sites on before", color=INK
    )
    if with_scores:
        lower = panels[1]
        points = [np.nan if value is None else value for value in stability.correlation]
        lower.plot(steps, points, color=LINES[2], marker="D", **draw)
        lower.axhline(0, color=RULE, linewidth=0.8, zorder=0)
        lower.set_ylim(min(0.0, np.nanmin(points)) - 0.05, 1.05)
        lower.set_ylabel("Spearman correlation\nof the scores", color=INK)
    panels[-1].set_xlabel("optimiser step of the tick", color=INK)
    for axes in panels:
        bare(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def budget_over_time(history: History) -> Figure:
    """Adapter parameters that were on from each tick to the next, and what was allowed."""
    figure = canvas(7.6, 2.9)
    axes = figure.add_subplot()
    steps = history.steps
    on = [tick.parameters for tick in history.ticks]
    allowed = [tick.budget for tick in history.ticks]
    axes.step(steps, allowed, where="post", color=LINES[1], linewidth=1.4, linestyle="--", label="budget", marker="_")
    axes.step(steps, on, where="post", color=LINES[0], linewidth=1.8, label="on", marker="o", markersize=4)
    axes.set_ylim(0, 1.15 * max(*on, *allowed))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimiser step of the tick", color=INK)
    axes.set_ylabel("adapter parameters", color=INK)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="lower right", ncols=2)
    bare(axes)
    axes.yaxis.grid(True, color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", labelcolor=MUTED)
    return figure
