"""The figure of a run at several ranks: log-loss above, the main metric below, against adapter parameters."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from lorakit.artifacts.rank_curve_file import RankPoint
from lorakit.reporting.figures import INK, LINES, bare, canvas, unmarked


def rank_curve_figure(points: Sequence[RankPoint], metric: str) -> Figure:
    """Draw every point with its rank beside it; a panel for what the points have: the loss, the metric."""
    ordered = sorted(points, key=lambda point: point.parameters)
    lines = {
        "log-loss (nats)": [point.log_loss for point in ordered],
        metric: [point.scores.get(metric) for point in ordered],
    }
    drawn = {name: values for name, values in lines.items() if None not in values}
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
        panel.margins(y=0.25)
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
