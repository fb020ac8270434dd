"""The figure of a run at several ranks: log-loss above, the main metric below, against adapter parameters."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from lorakit.artifacts.rank_curve_file import RankPoint
from lorakit.reporting.figures import INK, LINES, bare, canvas, unmarked
from lorakit.reporting.score_axis import score_limits


def rank_curve_figure(points: Sequence[RankPoint], metric: str, rows: int | None = None) -> Figure:
    """Draw every point with its rank beside it; a panel for what the points have: the loss from 0, the metric as ``score_limits`` says.

    rows: how many were scored, where that is known.
    """
    ordered = sorted(points, key=lambda point: point.parameters)
    losses = [point.log_loss for point in ordered if point.log_loss is not None]
    scores = [point.scores[metric] for point in ordered if metric in point.scores]
    lines = {"log-loss (nats)": losses, metric: scores}
    drawn = {name: values for name, values in lines.items() if len(values) == len(ordered)}
    figure = canvas(7.6, 0.6 + 2.1 * max(len(drawn), 1))
    panels = figure.subplots(max(len(drawn), 1), 1, sharex=True, squeeze=False).flatten()
    sizes = [point.parameters for point in ordered]
    for panel, colour, (name, values) in zip(panels, LINES, drawn.items(), strict=False):
        panel.plot(sizes, values, color=colour, marker="o", linewidth=1.6, markersize=4.5, clip_on=False)
        for point, value in zip(ordered, values, strict=True):
            panel.annotate(
                f"rank {point.rank}",
                (point.parameters, value),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=INK,
            )
        limits = score_limits(values, rows) if name == metric else (0.0, 1.15 * max(values) or 1.0)
        if limits is not None:
            panel.set_ylim(*limits)
        panel.set_ylabel(unmarked(name), color=INK)
        bare(panel)
    last = panels[-1]
    last.set_xscale("log")
    last.set_xticks(sizes)
    last.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    last.xaxis.set_minor_locator(NullLocator())
    last.xaxis.set_minor_formatter(NullFormatter())
    last.set_xlabel("adapter parameters, without the head", color=INK)
    return figure
