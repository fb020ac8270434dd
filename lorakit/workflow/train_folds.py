"""``lorakit train --folds``: own data trained as many times, each time with another part held out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted, UsageError
from lorakit.recipe.load import AnyRecipe, LoadedRecipe, load_recipe
from lorakit.recipe.schema import CUSTOM
from lorakit.result import Result
from lorakit.tasks.answer_files import answer_file
from lorakit.tasks.readers import read_csv
from lorakit.tasks.table import whole
from lorakit.tasks.task import Task
from lorakit.training.hooks import Hook
from lorakit.workflow.accelerator import refuse_elsewhere
from lorakit.workflow.ensembles import claim_together, ensemble
from lorakit.workflow.evaluate import evaluate
from lorakit.workflow.resume import can_go_on, changed_keys
from lorakit.workflow.train import train

logger = logging.getLogger(__name__)

OUT_OF_FOLD, HELD_OUT = "out_of_fold.csv", "held_out.csv"


@dataclass(frozen=True)
class FoldsResult(Result):
    """What training on folds came to.

    Attributes:
        out: the folder of the runs ``fold-1`` and so on; a classifier too, the ensemble of them all (``lorakit.ensemble``).
        runs: their folders.
        scores: of each, on the rows it held out.
        mean: metric -> its mean over the folds, each scored on the rows it held out.
        deviation: the sample standard deviation of the same.
        predictions: a csv with each row's text and label, and what the fold that did not train on it predicts.
    """

    out: Path
    runs: list[Path]
    scores: list[dict[str, float]]
    mean: dict[str, float]
    deviation: dict[str, float]
    predictions: Path


def train_folds(
    recipe: AnyRecipe,
    overrides: Sequence[str] = (),
    *,
    folds: int = 5,
    run_dir: str | Path | None = None,
    hooks: Sequence[Hook] = (),
) -> FoldsResult:
    """Train a recipe on own data ``folds`` times, each time on all rows but another part of them.

    A call that was stopped goes on where it was: folds that are finished are not trained again.

    Args:
        recipe: a file of texts and labels, a YAML file, or a recipe that is loaded, of a custom task without validation rows.
        overrides: ``KEY=VALUE`` each, which win over the recipe.
        folds: how many, 2 or more.
        run_dir: the folder of the runs; ``runs/NAME-SEED-folds`` by default.
        hooks: objects whose methods the loop calls by name.

    Returns:
        The score of each fold, their mean and deviation, and the predictions for rows that were not trained on.

    Raises:
        RecipeError: for a wrong recipe.
        UsageError: for fewer than two folds, a task that is not own data, or a folder that holds something else.
        Interrupted: after a polite stop; the same call goes on.

    Example:
        >>> result = lorakit.train_folds("reviews.csv", folds=5)               # doctest: +SKIP
        >>> result.mean["macro_f1"], result.deviation["macro_f1"]              # doctest: +SKIP
    """
    if folds < 2:
        raise UsageError(f"{folds} is no number of folds", where="--folds", valid="2 or more")
    refuse_elsewhere()  # between the trainings rows are predicted, by whole models
    loaded = load_recipe(recipe, overrides)
    run = loaded.recipe.run
    out = Path(run_dir) if run_dir else Path(run.folder) / f"{run.name}-{run.seed}-folds"
    runs = [out / f"fold-{fold}" for fold in range(1, folds + 1)]
    claim_together(out, runs)
    for fold, folder in enumerate(runs, start=1):
        logger.info("fold %d of %d", fold, folds)
        one = one_fold(loaded, fold, folds)
        begun = is_begun(one, Run(folder))
        if not Run(folder).finished:
            try:
                train(one, run_dir=folder, resume=begun, hooks=hooks)
            except Interrupted as stopped:
                what = f"fold {fold} of {folds} {stopped.problems[0].what}"
                raise Interrupted(what, hint="the same command goes on with this fold and the others") from None
    together = ensemble(runs, out=out)
    names, rows, scores = out_of_fold(runs)
    warn_of_small_folds(Run(runs[0]).task(), names, rows, folds)
    with answer_file(out / OUT_OF_FOLD, names) as write:
        for row in rows:
            write(row)
    return FoldsResult(
        out=together.out,
        runs=runs,
        scores=scores,
        mean={name: mean(each[name] for each in scores) for name in scores[0]},
        deviation={name: stdev(each[name] for each in scores) for name in scores[0]},
        predictions=out / OUT_OF_FOLD,
    )


def one_fold(loaded: LoadedRecipe, fold: int, folds: int) -> LoadedRecipe:
    """The recipe that holds out one of the folds, from 1. UsageError where its task is not own data."""
    if loaded.recipe.task.name != CUSTOM:
        what = f"the task {loaded.recipe.task.name} has validation rows of its own"
        raise UsageError(what, where="--folds", valid="own data: a file, or a recipe of task.name=custom")
    return load_recipe(loaded, [f"task.folds={folds}", f"task.fold={fold}"])


def is_begun(loaded: LoadedRecipe, run: Run) -> bool:
    """Whether a fold is there to go on with; one that was stopped before its first checkpoint makes room to be trained anew.

    UsageError where it is of another recipe.
    """
    if not run.recipe.is_file():
        return False
    if changed := changed_keys(loaded, run):
        what = f"this fold is of another recipe: {', '.join(changed)}"
        raise UsageError(what, where=str(run.path), hint="another --run-dir")
    return can_go_on(run)


def warn_of_small_folds(task: Task, names: Sequence[str], rows: Sequence[Sequence[str]], folds: int) -> None:
    """Say it where folds hold out no row of some class: F1 is 0 there, or of fewer classes, and so is its share of the mean."""
    if task.regression or task.multi_label:
        return
    label, fold = names.index("label"), names.index("fold")
    found = {(row[fold], row[label]) for row in rows}
    lacking = sum(any((str(number), name) not in found for name in task.labels) for number in range(1, folds + 1))
    if lacking:
        logger.warning(
            "%d of %d folds hold out no row of some class: scores of classes, and their mean, say little; fewer folds, or more rows",
            lacking,
            folds,
        )


def out_of_fold(runs: Sequence[Path]) -> tuple[list[str], list[list[str]], list[dict[str, float]]]:
    """Each row as the fold that held it out predicts it, in the order of the file, with the names of the columns; each fold's scores."""
    rows: list[list[str]] = []
    names: list[str] = []
    scores = []
    for fold, run in enumerate(runs, start=1):
        part = run / HELD_OUT
        scores.append(evaluate(run, predictions=part).scores)
        table = whole(read_csv(part))
        names = [*table.columns, "fold"]
        rows += [[*row, str(fold)] for row in zip(*table.columns.values(), strict=True)]
    return names, sorted(rows, key=lambda row: int(row[0])), scores
