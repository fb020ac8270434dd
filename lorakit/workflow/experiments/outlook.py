"""What can be known of a side before it is trained: its metrics and its parameters, from a finished run or from its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorakit.errors import RunError, UsageError, nearest
from lorakit.recipe.load import LoadedRecipe
from lorakit.tasks.task import higher_is_better
from lorakit.training.evaluation import of_split
from lorakit.training.schedule import make_schedule
from lorakit.workflow.experiments.arms import Side
from lorakit.workflow.setup import adapt, assemble, located


@dataclass(frozen=True)
class Outlook:
    """What is known of a side before its training: the metric that chooses its best epoch, all it is scored by, its parameters.

    budget: adapter parameters allowed; head: those of the head.
    """

    name: str
    metric: str
    metrics: list[str]
    budget: int
    head: int


def look_ahead(side: Side, *, train: bool) -> Outlook | None:
    """Of a finished run where there is one; else of the recipe on its real model and data, so that its mistakes are told now."""
    if side.finished:
        summaries = [side.entries[seed].summary() for seed in side.finished]
        names = [name for name in summaries[0]["last"] if all(name in summary["last"] for summary in summaries)]
        budget = summaries[0].get("budget", summaries[0]["adapter_parameters"])
        return Outlook(side.name, summaries[0]["metric"], names, budget, summaries[0]["head_parameters"])
    loaded = next(iter(side.entries.values())).loaded
    return try_out(side.name, loaded) if train and loaded is not None else None


def try_out(name: str, loaded: LoadedRecipe) -> Outlook:
    """Put the recipe's parts together once. RecipeError, DataError and the like for what only model and data can tell."""
    parts = assemble(loaded)
    with located(loaded):
        make_schedule(loaded.recipe, len(parts.data.splits["train"]))
        adapted = adapt(parts, statistics=None)
    task = parts.task
    names = [
        name for split in task.validation for name in of_split(dict.fromkeys(task.metrics, 0.0), split, task.validation)
    ]
    return Outlook(name, task.metrics[0], names, parts.budget.parameters, adapted.head_parameters())


def choose_metric(known: Sequence[Outlook], wanted: str | None) -> tuple[str, str]:
    """The metric to compare by, and the one, or those, that choose the best epochs."""
    if not known:
        raise RunError("no run is finished yet", hint="lorakit compare without --no-train trains them")
    first = known[0]
    common = [name for name in first.metrics if all(name in side.metrics for side in known)]
    choosers = list(dict.fromkeys(side.metric for side in known))
    if wanted is None and len(choosers) > 1:
        raise UsageError(
            "the sides choose their best epochs by different metrics: "
            + ", ".join(f"{side.name} by {side.metric}" for side in known),
            valid=f"--metric {' or '.join(common)}" if common else "sides of one metric",
        )
    chosen = wanted or first.metric
    if chosen not in common:
        hint = nearest(chosen, common)
        raise UsageError(f"the runs are not scored by '{chosen}'", where="--metric", valid=", ".join(common), hint=hint)
    return chosen, " or ".join(choosers)


def rises(metric: str) -> bool:
    """Whether a larger value is the better one, of a metric that may name its split."""
    return higher_is_better(metric.partition("/")[0])
