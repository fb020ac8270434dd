"""The tables of a run's page: what its figures show, in numbers."""

from __future__ import annotations

from collections.abc import Sequence

from lorakit.artifacts.rank_curve_file import RankPoint
from lorakit.reporting.budget_shares import Share, by_layer, by_role
from lorakit.reporting.history import History
from lorakit.reporting.page import Numbers
from lorakit.reporting.stability import Stability
from lorakit.reporting.summary import Outcome
from lorakit.reporting.tables import percent
from lorakit.tasks.diagnosis import class_scores


def tables(history: History, stability: Stability) -> list[Numbers]:
    """Roles, layers and ticks, as far as the run has them."""
    if not history.sites:
        return []
    found = [share_table("Roles in numbers", history, by_role(history))]
    if len({site.layer for site in history.sites}) > 1:
        found.append(share_table("Layers in numbers", history, by_layer(history)))
    if history.ticks:
        found.append(tick_table(history, stability))
    return found


def class_table(outcome: Outcome) -> list[Numbers]:
    """What the last evaluation got right, by class, where the run has written it."""
    what, scored = "class", []
    if sum(map(sum, outcome.confusion)):
        scored = class_scores(outcome.labels, outcome.confusion)
    elif outcome.by_label:
        pairs = zip(outcome.labels, outcome.by_label, strict=True)
        what, scored = "label", [class_scores(("", label), counts)[1] for label, counts in pairs]
    if not scored:
        return []
    rows = [
        [row.label, f"{row.precision:.4f}", f"{row.recall:.4f}", f"{row.f1:.4f}", f"{row.support:,}"] for row in scored
    ]
    note = "Precision: of the rows that got the label, the share that has it. Recall: of those that have it, the share that got it."
    return [Numbers(f"Scores by {what}", [what, "precision", "recall", "F1", "rows"], rows, note)]


def share_table(title: str, history: History, groups: Sequence[Share]) -> Numbers:
    """A row per group of sites."""
    searched = bool(history.ticks)
    unit = "budget" if searched else "parameters"
    columns = ["", "sites", "on", f"share of {unit}", "even share", "times its even share"]
    if history.ranked:
        columns.insert(3, "mean rank")
    rows = []
    for share in groups:
        row = [
            share.name,
            str(share.sites),
            percent(share.on),
            percent(share.budget),
            percent(share.even),
            f"{share.lift:.2f}",
        ]
        if history.ranked:
            row.insert(3, f"{share.rank:.2f}")
        rows.append(row)
    note = (
        "On: the share of all pairs of a site and a tick. Share of the budget: of what was spent over all ticks. "
        if searched
        else ""
    )
    note += "Even share: what it would be if all sites were on" + (" at one rank." if history.ranked else ".")
    note += " What a site costs is taken as proportional to its rank." if history.ranked else ""
    return Numbers(title, columns, rows, note)


def curve_table(points: Sequence[RankPoint]) -> list[Numbers]:
    """The run at several ranks, where they were scored."""
    if not points:
        return []
    names = list(points[0].scores)
    rows = [
        [
            f"rank {point.rank}",
            f"{point.parameters:,}",
            "" if point.log_loss is None else f"{point.log_loss:.4f}",
            *(f"{point.scores[name]:.4f}" if name in point.scores else "" for name in names),
        ]
        for point in points
    ]
    note = "Every site cut to at most this rank, without training again. The rows are the run's validation rows; nothing is chosen by them."
    return [Numbers("The run at lower ranks", ["", "adapter parameters", "log-loss", *names], rows, note)]


def tick_table(history: History, stability: Stability) -> Numbers:
    """A row per tick."""
    columns = ["tick", "step", "epoch", "sites on", "parameters", "churn"]
    columns += ["rank moved"] if history.ranked else []
    measured = list(dict.fromkeys(name for tick in history.ticks for name in tick.measured))
    columns += [*(["correlation"] if stability.correlations else []), *(name.replace("_", " ") for name in measured)]
    columns.append("seconds")
    rows = []
    for place, (tick, on) in enumerate(zip(history.ticks, history.sites_on, strict=True)):
        row = [str(tick.tick), f"{tick.step:,}", f"{tick.epoch:.2f}", str(on), f"{tick.parameters:,}"]
        row.append(percent(stability.churn[place - 1]) if place else "")
        if history.ranked:
            row.append(percent(stability.moved[place - 1]) if place else "")
        if stability.correlations:
            value = stability.correlation[place - 1] if place else None
            row.append("" if value is None else f"{value:.2f}")
        row += [f"{tick.measured[name]:.3g}" if name in tick.measured else "" for name in measured]
        rows.append([*row, f"{tick.seconds:.1f}"])
    note = "Churn: the share of the sites on at the tick before that went off. Correlation: Spearman's, with the scores of the tick before."
    return Numbers(
        "Ticks in numbers", columns, rows, note if stability.correlations else note.partition(" Correlation")[0]
    )
