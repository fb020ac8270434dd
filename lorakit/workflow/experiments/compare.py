"""``lorakit compare``: recipes and runs over several seeds, trained where they are missing, and what they come to side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from lorakit.artifacts.files import write_json, write_text
from lorakit.artifacts.run import environment
from lorakit.errors import UsageError
from lorakit.recipe.load import AnyRecipe
from lorakit.reporting.comparison_figure import comparison_figure
from lorakit.result import Result
from lorakit.workflow.experiments.arms import (
    Arm,
    Forecast,
    check_same_data,
    check_same_recipes,
    choose_metric,
    forecast,
    gather,
    paired_order,
    rises,
)
from lorakit.workflow.experiments.elsewhere import Elsewhere, Submitted, check_engine, check_submitted, trainer
from lorakit.workflow.experiments.request import Request, called_with, check_alone
from lorakit.workflow.experiments.totals import ComparedArm, apart, as_csv, side_by_side, warnings
from lorakit.workflow.experiments.workers import Missing, no_finished_run

logger = logging.getLogger(__name__)

FOLDER = Path("runs/compare")


@dataclass(frozen=True)
class CompareRequest(Request):
    """Arguments of ``compare``; see there."""

    arms: Sequence[AnyRecipe]
    overrides: Sequence[str] = ()
    _: KW_ONLY
    train: bool = True
    figure: str | Path | None = None


@dataclass(frozen=True)
class Comparison(Result):
    """The sides, and what to know before believing their numbers.

    Attributes:
        folder: where the runs are, and comparison.json.
        task: the task's name.
        metric: what is compared.
        best_by: the metric that chose the best epochs on the validation split, not always the one compared by.
        higher_is_better: whether a larger value of ``metric`` is the better one.
        sides: what each comes to; the first is what the others are compared to.
        failed: runs whose training failed.
        missing: runs that are not there yet.
        warnings: what to know before believing the numbers.
        figure: the file of the figure.
    """

    folder: Path
    task: str
    metric: str
    best_by: str
    higher_is_better: bool
    sides: list[ComparedArm]
    failed: list[Missing]
    missing: list[Missing]
    warnings: list[str]
    figure: Path


@called_with(CompareRequest)
def compare(asked: CompareRequest) -> Comparison:
    """Compare recipes over several seeds: train the runs that are missing, and put side by side what all of them came to.

    What is trained already is not trained again, and a failed training does not stop the others: it is in the result's ``failed``.

    Args:
        arms: recipes (shipped names, files, or loaded ones) and folders of finished runs, in any mix. The others are compared to the
            first; runs that differ in their seed alone belong together.
        overrides: ``KEY=VALUE`` for all recipes.
        seeds: of the recipes, a run each; 0 to 4 where not given.
        folder: where the runs are, as NAME-SEED, and what is written; runs/compare where not given.
        metric: another one of the task's than its first.
        train: False compares what is there, and trains nothing.
        wait: for runs that other workers on the folder train.
        figure: the file of the figure; comparison.png in the folder where not given.
        table: a csv file to write, a line for each run.
        offline: never touch the network.
        workers: processes that share the runs, on this machine this one among them; one for each GPU where not given, else one.
        on: ``ray`` or ``slurm``, which starts the workers on its machines; this process waits, and trains nothing.
        slurm: ``KEY=VALUE`` each of its jobs, such as ``gpus_per_node=1``, ``partition=NAME``, ``timeout_min=240``.
        watch: makes the hook that shows a training's progress, as a context.

    Returns:
        The sides with their means, spreads, costs and paired differences to the first; also in comparison.json in the folder.

    Raises:
        UsageError: for recipes and runs that do not go together; RecipeError for a wrong recipe, before anything is trained.
        RunError: where no run is finished in the end.
        Interrupted: after a polite stop; the same call goes on.

    Example:
        >>> comparison = lorakit.compare(["mrpc-lora", "mrpc-heterolora"], seeds=[0, 1])  # doctest: +SKIP
        >>> comparison.sides[1].last_difference.mean                                      # doctest: +SKIP
    """
    folder, arms = resolve(asked)
    every = [entry for arm in arms for entry in arm.entries.values()]
    absent = paired_order(arms)
    metric, best_by = choose_metric(forecasts(arms, train=asked.train), asked.metric)
    there = f"{len(every) - len(absent)} of {len(every)} runs are there"
    logger.info("%s, %d %s", there, len(absent), "to train" if asked.train else "missing")
    failed = list[Missing]()
    missing = [Missing(str(entry.run.path), "not trained yet") for entry in absent]
    if asked.train and absent:
        with trainer(compare, asked, folder, len(absent), goes_on(asked)) as train:
            failed, missing = train(absent, len(every))
    compared = side_by_side(arms, metric)
    if not compared:
        raise no_finished_run(failed, folder)
    result = Comparison(
        folder=folder,
        task=arms[0].recipe.task.name,
        metric=metric,
        best_by=best_by,
        higher_is_better=rises(metric),
        sides=compared,
        failed=failed,
        missing=missing,
        warnings=warnings(arms, compared),
        figure=folder / "comparison.png" if asked.figure is None else Path(asked.figure),
    )
    values = {arm.name: {run.seed: run.last[metric] for run in arm.runs} for arm in compared}
    comparison_figure(values, metric, result.figure, reference=arms[0].name, rises=result.higher_is_better)
    write_json(folder / "comparison.json", {**result.to_dict(), "environment": environment()})
    if asked.table is not None:
        write_text(Path(asked.table), as_csv(compared))
    return result


@called_with(CompareRequest)
def submit_compare(asked: CompareRequest) -> Submitted:
    """Hand what is missing of a comparison to Slurm's queue, checked as ``compare`` checks it, and wait for nothing.

    Args:
        arms, overrides, ...: those of ``compare``, with ``on="slurm"``. Jobs of an earlier call that are not done stay the only ones.

    Returns:
        The jobs, and the command that tells what they came to.

    Raises:
        UsageError: for recipes and runs that do not go together; RunError where Slurm does not take the jobs.

    Example:
        >>> lorakit.submit_compare(["mrpc-lora", "mrpc-dora"], on="slurm", workers=4).jobs     # doctest: +SKIP
    """
    check_submitted(asked)
    folder, arms = resolve(asked)
    forecasts(arms, train=True)
    return Elsewhere(compare, asked, folder, len(paired_order(arms)), goes_on(asked)).submit()


def resolve(asked: CompareRequest) -> tuple[Path, list[Arm]]:
    """The folder and the arms, checked."""
    check_alone()
    check_engine(asked)
    if asked.on is not None and not asked.train:
        raise UsageError(f"--no-train and --on {asked.on} exclude each other")
    folder = FOLDER if asked.folder is None else Path(asked.folder)
    arms = gather(asked.arms, asked.overrides, asked.seeds, folder, offline=asked.offline)
    check_same_data(arms)
    check_same_recipes(arms)
    return folder, arms


def goes_on(asked: CompareRequest) -> str:
    """The command that goes on with the comparison."""
    return asked.again("compare", asked.arms, asked.overrides, {"--figure": asked.figure})


def forecasts(arms: Sequence[Arm], *, train: bool) -> list[Forecast]:
    """Of every arm that has a finished run, or will be trained. Says where budgets differ."""
    found = [known for arm in arms if (known := forecast(arm, train=train)) is not None]
    if found and train and any(not arm.finished for arm in arms):
        for other in found[1:]:
            if apart(other.budget, found[0].budget):
                logger.warning(
                    "budgets differ: %s has %s adapter parameters, and %s %s",
                    *(other.name, f"{other.budget:,}", found[0].name, f"{found[0].budget:,}"),
                )
    return found
