"""``lorakit compare``: recipes and runs over several seeds, trained where they are missing, and what they come to side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.artifacts.files import write_json, write_text
from lorakit.artifacts.run import environment
from lorakit.errors import Problem, RunError, UsageError
from lorakit.reporting.comparison_figure import comparison_figure
from lorakit.workflow.experiments.arms import Side, check_same_data, gather, paired_order
from lorakit.workflow.experiments.outlook import Outlook, choose_metric, look_ahead, rises
from lorakit.workflow.experiments.totals import ComparedSide, apart, as_csv, side_by_side, warnings
from lorakit.workflow.experiments.workers import Missing, Watch, command, train_missing, unwatched
from lorakit.workflow.setup import Result, talk, this_process

FOLDER = Path("runs/compare")


@dataclass(frozen=True)
class Comparison(Result):
    """The sides; the first is what the others are compared to.

    best_by: the metric that chose the best epochs on the validation split, not always the one compared by; failed: runs whose training
    failed; missing: runs that are not there yet; warnings: what to know before believing the numbers.
    """

    folder: Path
    task: str
    metric: str
    best_by: str
    higher_is_better: bool
    sides: list[ComparedSide]
    failed: list[Missing]
    missing: list[Missing]
    warnings: list[str]
    figure: Path


def compare(
    arguments: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    seeds: Sequence[int] | None = None,
    folder: Path = FOLDER,
    metric: str | None = None,
    train: bool = True,
    wait: bool = True,
    figure: Path | None = None,
    table: Path | None = None,
    offline: bool = False,
    watch: Watch = unwatched,
) -> Comparison:
    """Compare recipes, trained in ``folder`` once for each seed unless they are already, and run folders, taken as they are.

    overrides: KEY=VALUE for all recipes; seeds: of the recipes, 0 to 4 where not given; metric: another one of the task's; train:
    False only reads what is there; wait: for runs that other workers on this folder train; figure: comparison.png in the folder
    where not given; table: a csv file of all runs; watch: gives the hook that shows a training's progress, as a context. A failed
    training does not stop the others, and is in ``failed``. Raises UsageError for sides that do not go together, RunError where no
    run is there in the end, and Interrupted after a polite stop.
    """
    if this_process().num_processes > 1:
        raise UsageError("a comparison is made by one process", hint="several workers on one folder share its runs")
    sides = gather(arguments, overrides, seeds, folder, offline=offline)
    check_same_data(sides)
    every = [entry for side in sides for entry in side.entries.values()]
    for entry in every:
        entry.check_same_recipe()
    absent = paired_order(sides)
    chosen, best_by = choose_metric(outlooks(sides, train=train), metric)
    there = f"{len(every) - len(absent)} of {len(every)} runs are there"
    talk.info("%s, %d %s", there, len(absent), "to train" if train else "missing")
    failed = list[Missing]()
    missing = [Missing(str(entry.run.path), "not trained yet") for entry in absent]
    if train and absent:
        options = {"--folder": folder, "--metric": metric, "--figure": figure, "--csv": table, "--seeds": seeds}
        again = command("compare", [*arguments, *overrides, *(["--offline"] if offline else [])], options)
        failed, missing = train_missing(absent, len(every), watch, wait=wait, again=again)
    compared = side_by_side(sides, chosen)
    if not compared:
        told = [Problem(lost.why, where=lost.run) for lost in failed]
        raise RunError(told or Problem("no run is finished yet", where=str(folder)))
    result = Comparison(
        folder=folder,
        task=sides[0].recipe.task.name,
        metric=chosen,
        best_by=best_by,
        higher_is_better=rises(chosen),
        sides=compared,
        failed=failed,
        missing=missing,
        warnings=warnings(sides, compared),
        figure=figure or folder / "comparison.png",
    )
    values = {side.name: {run.seed: run.last[chosen] for run in side.runs} for side in compared}
    comparison_figure(values, chosen, result.figure, reference=sides[0].name, rises=result.higher_is_better)
    write_json(folder / "comparison.json", {**result.to_dict(), "environment": environment()})
    if table is not None:
        write_text(table, as_csv(compared))
    return result


def outlooks(sides: Sequence[Side], *, train: bool) -> list[Outlook]:
    """What is known of every side that has a finished run, or will be trained. Says where budgets differ."""
    found = [outlook for side in sides if (outlook := look_ahead(side, train=train)) is not None]
    if found and train and any(not side.finished for side in sides):
        for other in found[1:]:
            if apart(other.budget, found[0].budget):
                talk.warning(
                    "budgets differ: %s has %s adapter parameters, and %s %s",
                    *(other.name, f"{other.budget:,}", found[0].name, f"{found[0].budget:,}"),
                )
    return found
