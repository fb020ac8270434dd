"""``lorakit sweep``: a recipe over a grid of its keys, or over values that Optuna draws, and over several seeds; best first.

What it is of is read and checked in `sweep_spec`, its points are trained in `swept_points` and ranked in `ranking`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.artifacts.files import write_json, write_text
from lorakit.artifacts.run import environment
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.values import written
from lorakit.result import Result
from lorakit.workflow.experiments.arms import Arm, paired_order, rises, to_train
from lorakit.workflow.experiments.elsewhere import Elsewhere, Submitted, Trainer, check_submitted, trainer
from lorakit.workflow.experiments.ranking import SweptPoint, draw, rank, warnings
from lorakit.workflow.experiments.request import called_with, with_options
from lorakit.workflow.experiments.sweep_spec import SweepRequest, SweepSpec, resolve_sweep
from lorakit.workflow.experiments.swept_points import draw_trials, from_trials, train_grid
from lorakit.workflow.experiments.totals import Totals, as_csv, compared_run, totals
from lorakit.workflow.experiments.workers import Missing, no_finished_run

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from lorakit.workflow.experiments.optuna_trials import Trial

ENDED_BY_VALIDATION = "training.early_stopping ended the runs on all rows by the validation rows, which makes their scores there optimistic"


@dataclass(frozen=True)
class PlannedPoint(Result):
    """A point before its training.

    Attributes:
        name: what its runs are called, but for the seed.
        settings: what varies there, key -> value.
        budget: adapter parameters allowed.
        head_parameters: those of the head.
        finished: seeds whose runs are done.
    """

    name: str
    settings: dict[str, Any]
    budget: int
    head_parameters: int
    finished: list[int]


@dataclass(frozen=True)
class SweepPlan(Result):
    """What a sweep would train.

    Attributes:
        folder: where its runs would be.
        task: the task's name.
        metric: what the points would be ranked by.
        seeds: of every point.
        trials: how many points would be drawn; None for a grid.
        ranges: key -> what would be drawn from, of a sweep by trials.
        points: of the grid; of a sweep by trials the ends of the ranges.
    """

    folder: Path
    task: str
    metric: str
    seeds: list[int]
    trials: int | None
    ranges: dict[str, str]
    points: list[PlannedPoint]


@dataclass(frozen=True)
class Sweep(Result):
    """The points, ranked, and what to know before believing the first.

    Attributes:
        folder: where the runs are, and sweep.json.
        recipe: the recipe's name.
        task: the task's name.
        metric: what the points are ranked by, after the last epoch.
        best_by: the metric that chose the best epochs on the validation split.
        holdout: the share of the training rows that the points are scored on in place of the validation rows; None for these.
        higher_is_better: whether a larger value of ``metric`` is the better one.
        seeds: of every point.
        points: the best first, those without a run last.
        best: the command that trains the best point again, with the first seed.
        final: the best point trained on all rows and scored on the validation rows, where it was chosen by training rows that were held
            out; None else, and where runs are still missing.
        trials: of the study where there is one, failed ones and their repetitions, and those that were pruned, included.
        failed: runs or trials that failed.
        missing: those that are not there yet.
        warnings: what to know before believing the numbers.
        figure: the file of the figure; None where no key varies over numbers.
    """

    folder: Path
    recipe: str
    task: str
    metric: str
    best_by: str
    holdout: float | None
    higher_is_better: bool
    seeds: list[int]
    points: list[SweptPoint]
    best: str
    final: Totals | None
    trials: list[Trial]
    failed: list[Missing]
    missing: list[Missing]
    warnings: list[str]
    figure: Path | None


@called_with(SweepRequest)
def sweep(asked: SweepRequest) -> Sweep:
    """Train a recipe at every point of a grid with every seed, and rank the points.

    What is trained already is not trained again, and a failed training does not stop the others: it is in the result's ``failed``.

    Args:
        recipe: a shipped name, a file, a run folder, or a loaded recipe.
        overrides: ``KEY=VALUE`` for all points; ``KEY=VALUE,VALUE`` is an axis of the grid; with trials also ``KEY=LOW..HIGH``.
        seeds: every point is trained with each of them; 0, 1 and 2 where not given.
        folder: where the runs are, as NAME-SEED, and what is written; runs/sweep-NAME where not given.
        metric: another one of the task's than its first.
        trials: that many points, drawn by Optuna, instead of all.
        prune: ``asha`` ends drawn trials early whose first seed falls behind on the held-out rows (``holdout``), and ``hyperband`` does so
            in brackets, some of which wait longer: see `pruning`.
        storage: of Optuna's study: a database's URL or a journal file; study.journal in the folder where not given.
        holdout: the share of the training rows to choose by, in place of the validation rows (``task.holdout``); the best point is then
            trained on all of them, and scored on the validation rows, which had no part in the choice.
        wait: for what other workers on the folder train.
        table: a csv file to write, a line for each run.
        offline: never touch the network.
        workers: processes that share the runs, on this machine this one among them; one for each GPU where not given, else one.
        on: ``ray`` or ``slurm``, which starts the workers on its machines; this process waits, and trains nothing.
        slurm: ``KEY=VALUE`` each of its jobs, such as ``gpus_per_node=1``, ``partition=NAME``, ``timeout_min=240``.
        watch: makes the hook that shows a training's progress, as a context.

    Returns:
        The points, the best first, and the command that trains the best one again; also in sweep.json in the folder.

    Raises:
        UsageError: for what makes no sweep; RecipeError for the mistakes of all points; both before anything is trained.
        RunError: where no run is finished in the end.
        Interrupted: after a polite stop; the same call goes on.

    Example:
        >>> found = lorakit.sweep("mrpc-lora", ["training.lr=1e-4,3e-4"], seeds=[0, 1])   # doctest: +SKIP
        >>> found.points[0].settings                                                      # doctest: +SKIP
    """
    spec = resolve_sweep(asked)
    with trainer(sweep, asked, spec.folder, runs_of(spec), spec.again()) as train:
        if asked.trials is None:
            found, failed, missing = train_grid(spec, train)
            drawn: list[Trial] = []
        else:
            drawn = draw_trials(spec, asked.trials, train)
            found, failed, missing = from_trials(spec, drawn)
        points, final = ranked(spec, found, failed), None
        if asked.holdout is not None and not missing:
            final, again_failed, missing = train_on_all_rows(spec, points[0], train)
            failed = [*failed, *again_failed]
    return conclude(spec, points, final, drawn, failed, missing)


@called_with(SweepRequest)
def plan_sweep(asked: SweepRequest) -> SweepPlan:
    """What ``sweep`` would train, checked as it would be; nothing is trained or written.

    Args:
        recipe, overrides, ...: those of ``sweep``: the same call, looked at beforehand.

    Returns:
        Every point with its settings, its parameters and the runs of it that are there.

    Raises:
        UsageError: for what makes no sweep; RecipeError for the mistakes of all points.

    Example:
        >>> lorakit.plan_sweep("mrpc-lora", ["adapter.rank=4,8"]).points[0].budget        # doctest: +SKIP
    """
    spec = resolve_sweep(asked)
    return SweepPlan(
        folder=spec.folder,
        task=spec.task,
        metric=spec.metric,
        seeds=list(spec.seeds),
        trials=asked.trials,
        ranges={span.key: str(span) for span in spec.space.ranges},
        points=[
            PlannedPoint(arm.name, point.values, known.budget, known.head, arm.finished)
            for point, arm, known in zip(spec.points, spec.arms, spec.forecasts, strict=True)
        ],
    )


@called_with(SweepRequest)
def submit_sweep(asked: SweepRequest) -> Submitted:
    """Hand what is missing of a sweep to Slurm's queue, checked as ``sweep`` checks it, and wait for nothing.

    Args:
        recipe, overrides, ...: those of ``sweep``, with ``on="slurm"``. Jobs of an earlier call that are not done stay the only ones.

    Returns:
        The jobs, and the command that tells what they came to.

    Raises:
        UsageError: for what makes no sweep; RecipeError for the mistakes of all points; RunError where Slurm does not take the jobs.

    Example:
        >>> lorakit.submit_sweep("mrpc-lora", ["adapter.rank=4,8"], on="slurm", workers=2).jobs     # doctest: +SKIP
    """
    check_submitted(asked)
    spec = resolve_sweep(asked)
    return Elsewhere(sweep, asked, spec.folder, runs_of(spec), spec.again()).submit()


def runs_of(spec: SweepSpec) -> int:
    """How many runs, or trials, can be under way at once; of a grid that is done those of the best point on all rows."""
    if spec.asked.trials is not None:
        return spec.asked.trials
    return len(paired_order(spec.arms)) or len(spec.seeds)


def ranked(spec: SweepSpec, found: Sequence[SweptPoint], failed: Sequence[Missing]) -> list[SweptPoint]:
    """The points, the best first. Raises RunError where no run is finished."""
    if all(point.came_to is None for point in found):
        raise no_finished_run(failed, spec.folder)
    return sorted(found, key=partial(rank, seeds=len(spec.seeds), higher=rises(spec.metric)))


def conclude(
    spec: SweepSpec,
    points: list[SweptPoint],
    final: Totals | None,
    drawn: list[Trial],
    failed: list[Missing],
    missing: list[Missing],
) -> Sweep:
    """What the sweep came to; writes figure, JSON and table."""
    result = Sweep(
        folder=spec.folder,
        recipe=recipe_name(spec),
        task=spec.task,
        metric=spec.metric,
        best_by=spec.best_by,
        holdout=spec.asked.holdout,
        higher_is_better=rises(spec.metric),
        seeds=list(spec.seeds),
        points=points,
        best=train_again(spec, points[0], final),
        final=final,
        trials=drawn,
        failed=failed,
        missing=missing,
        warnings=[
            *warnings(points, spec.seeds, spec.asked.holdout, listed=[axis.key for axis in spec.space.axes]),
            *([ENDED_BY_VALIDATION] if final is not None and spec.arms[0].recipe.training.early_stopping else []),
        ],
        figure=draw(points, spec.metric, spec.folder / "sweep.png"),
    )
    write_json(spec.folder / "sweep.json", {**result.to_dict(), "environment": environment()})
    if spec.asked.table is not None:
        sides = [*((point.came_to, point.settings) for point in points), (final, points[0].settings)]
        there = [(came_to, settings) for came_to, settings in sides if came_to is not None]
        settings = {came_to.name: settings for came_to, settings in there}
        write_text(Path(spec.asked.table), as_csv([came_to for came_to, _ in there], settings))
    return result


def train_on_all_rows(
    spec: SweepSpec, point: SweptPoint, train: Trainer
) -> tuple[Totals | None, list[Missing], list[Missing]]:
    """The best point of a sweep by held-out rows, trained on all of them with every seed; the runs that failed, and that are missing."""
    asked, name = spec.asked, f"{point.name}-all-rows"
    loaded = load_recipe(asked.recipe, [*spec.of_all_rows(), *as_overrides(point)], offline=asked.offline)
    arm = Arm(
        name,
        loaded.recipe,
        {entry.seed: entry for entry in to_train(loaded, name, spec.seeds, spec.folder)},
        given=True,
    )
    logger.info("%s is best on the rows held out: it is trained on all, and scored on the validation rows", point.name)
    absent = paired_order([arm])
    failed, missing = train(absent, len(arm.entries))
    runs = [compared_run(arm.entries[seed]) for seed in sorted(arm.finished)]
    return totals(name, loaded.recipe.model.name, runs, spec.metric) if runs else None, failed, missing


def as_overrides(point: SweptPoint) -> list[str]:
    """KEY=VALUE of what varies, at the point."""
    return [f"{key}={written(value)}" for key, value in point.settings.items()]


def recipe_name(spec: SweepSpec) -> str:
    """The recipe as the command line names it; of a loaded one the file it was read from."""
    recipe = spec.asked.recipe
    if isinstance(recipe, LoadedRecipe):
        return str(recipe.path)
    return str(Path(recipe) / "recipe.yaml") if Path(recipe).is_dir() else str(recipe)


def train_again(spec: SweepSpec, point: SweptPoint, final: Totals | None) -> str:
    """The command that trains a point again, on all rows, with the first seed; of a loaded recipe, by the recipe of a run that is there."""
    if isinstance(spec.asked.recipe, LoadedRecipe):
        there = final or point.came_to
        words = [str(Path(there.runs[0].path) / "recipe.yaml")] if there else []
    else:
        offline = ["--offline"] if spec.asked.offline else []
        words = [recipe_name(spec), *spec.of_all_rows(), *as_overrides(point), *offline]
    return with_options("train", words, {"--seed": spec.seeds[0]})
