"""The figures of a run's page, each with what it shows in words: those that the run has the records for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from lorakit.artifacts.rank_curve_file import RankPoint
from lorakit.reporting.budget_shares import by_role
from lorakit.reporting.confusion_figure import confusion
from lorakit.reporting.figures import curves, heat_map
from lorakit.reporting.history import History
from lorakit.reporting.rank_curve_figure import rank_curve_figure
from lorakit.reporting.search_figures import budget_over_time, changes, over_time, score_spread
from lorakit.reporting.stability import Stability
from lorakit.reporting.summary import Outcome
from lorakit.reporting.tables import counted, percent, scores

MOST_CLASSES = 20  # that a figure of class against class has room for


@dataclass(frozen=True)
class Drawing:
    """A figure before it is written. name: of its file, without ending."""

    name: str
    figure: Figure
    title: str
    alt: str
    caption: str


def drawings(
    metrics: Sequence[Mapping[str, Any]], history: History, stability: Stability, outcome: Outcome
) -> Iterator[Drawing]:
    """The figures that this run has the records for, in the page's order."""
    if metrics:
        last = f" Its last scores: {scores(outcome.last)}." if outcome.last else ""
        yield Drawing(
            "curves",
            curves(metrics, history.steps, rows=sum(map(sum, outcome.confusion)) or None),
            "Loss and scores",
            f"Two curves over the optimiser steps: the training loss, and the scores on the validation split.{last}",
            "Above: the mean training loss between two records. Below: the scores on the validation split, on an axis at least as wide "
            "as what chance alone does to them. "
            + ("A thin vertical line is a tick of the search." if history.ticks else ""),
        )
    if 0 < len(outcome.confusion) <= MOST_CLASSES and any(count for line in outcome.confusion for count in line):
        yield confusion_drawing(outcome)
    if not history.ticks:
        if history.ranked or not history.on.all():
            yield rank_drawing(history, "the rank of each site in training, 0 where there is none")
        return
    most = max(by_role(history), key=lambda share: share.on)
    what = "by the live rank" if history.ranked else "where the site was on"
    yield Drawing(
        "time",
        over_time(history),
        "Which sites were on, over time",
        f"A panel per role of layers by ticks, coloured where a site was on. {most.name} was on most: {percent(most.on)}.",
        f"Each row is a layer, each column a tick, coloured {what} from that tick to the next. Empty rows have no site.",
    )
    title = f"how often each site was on: percent of {counted(len(history.ticks), 'tick')}"
    usual = f"{history.on.sum() / len(history.ticks):.0f} of {len(history.sites)} sites at a time"
    yield Drawing(
        "sites",
        heat_map(history.sites, list(history.on.mean(axis=1)), f"{title}\n{usual}"),
        "How often each site was on",
        "Layers by roles, the share of ticks at which each site was on. "
        + ", ".join(f"{share.name} {percent(share.on)}" for share in by_role(history)),
        "The share of all ticks at which a site was on, in percent, with means over roles and layers.",
    )
    if history.ranked:
        yield rank_drawing(history, "mean live rank over all ticks, 0 where off")
    if history.scored:
        yield Drawing(
            "scores",
            score_spread(history),
            "How the scores are spread",
            "The scores of the chosen and of the other sites at each tick, as ranges with their middle halves and medians.",
            "Thin lines: from the lowest to the highest score. Thick lines: the middle half. Marks: the medians. Only the order of "
            "the scores within a tick decides; their size changes with the loss.",
        )
    if stability.moved and (stability.verdict != "fixed" or stability.correlations):
        yield Drawing(
            "changes",
            changes(history, stability),
            "What changed between ticks",
            "For each tick but the first, the share of the sites that were on before and went off"
            + (
                ", and the rank correlation of the scores with those of the tick before."
                if stability.correlations
                else "."
            ),
            f"Low churn{' and a correlation near 1 mean' if stability.correlations else ' means'} that the search keeps to its choice.",
        )
    yield Drawing(
        "budget",
        budget_over_time(history),
        "The budget",
        f"Adapter parameters on after each tick, {history.ticks[-1].parameters:,} at the last, and the budget, "
        f"{history.ticks[-1].budget:,} there.",
        "Adapter parameters that trained from each tick to the next, without the head, and how many were allowed.",
    )


def curve_drawing(points: Sequence[RankPoint], metric: str) -> Iterator[Drawing]:
    """Loss and metric against adapter parameters, where the run was scored at several ranks."""
    if len(points) < 2:
        return
    least, most = min(points, key=lambda point: point.rank), max(points, key=lambda point: point.rank)
    yield Drawing(
        "rank_curve",
        rank_curve_figure(points, metric),
        "The run at every size",
        f"Log-loss and {metric} against adapter parameters, from {least.parameters:,} at rank {least.rank} to {most.parameters:,} at rank "
        f"{most.rank}.",
        "One training, cut to lower ranks without training again and scored on the run's validation rows.",
    )


def rank_drawing(history: History, title: str) -> Drawing:
    """Every site's mean live rank; ``title`` says over what."""
    ranks = list(history.live.mean(axis=1))
    return Drawing(
        "ranks",
        heat_map(history.sites, ranks, title, top=max(ranks), form="{:.1f}"),
        "The mean rank of each site",
        "Layers by roles, the mean live rank. "
        + ", ".join(f"{share.name} {share.rank:.1f}" for share in by_role(history)),
        "Live rank units of each site, with means over roles and layers.",
    )


def confusion_drawing(outcome: Outcome) -> Drawing:
    """Which classes are taken for which."""
    counts = outcome.confusion
    wrong = {(i, j): n for i, line in enumerate(counts) for j, n in enumerate(line) if i != j}
    (label, answer), most = max(wrong.items(), key=lambda item: item[1])
    alt = f"Labels by answers: {sum(wrong.values()):,} of {sum(map(sum, counts)):,} rows are wrong."
    if most:
        alt += f" Most often {outcome.labels[label]} is taken for {outcome.labels[answer]}: {most:,} rows."
    caption = (
        "Each row is a label, each column an answer; the stronger the colour, the larger the share of the label's rows, taken at the "
        "lower end of its 95 % interval: what two rows do is pale."
    )
    return Drawing("confusion", confusion(outcome.labels, counts), "Which classes are taken for which", alt, caption)
