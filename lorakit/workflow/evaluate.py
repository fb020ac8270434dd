"""``lorakit eval``: the task's own metrics of a run or a checkpoint on a split, with a confidence interval."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorakit.artifacts.run import Run
from lorakit.errors import UsageError, command_line, nearest
from lorakit.recipe.load import load_recipe
from lorakit.recipe.schema import CUSTOM, TaskSection
from lorakit.result import Result
from lorakit.tasks.calibration import Reliability, probabilities, reliability
from lorakit.tasks.diagnosis import Diagnosis, Slice, by_value, diagnose
from lorakit.tasks.held_out import replaced_splits
from lorakit.tasks.label_diagnosis import LabelDiagnosis, diagnose_labels
from lorakit.tasks.label_order import order_by_name
from lorakit.tasks.metrics import interval, main_metric
from lorakit.tasks.number_diagnosis import NumberDiagnosis, diagnose_numbers
from lorakit.tasks.sources import load_task
from lorakit.tasks.submission import check_form, write_predictions
from lorakit.tasks.task import Task, TaskData, tasks
from lorakit.training.evaluation import decide, of_split, probabilities_of, score_logits
from lorakit.workflow.ensembles import TrainedEnsemble, is_ensemble, members_of
from lorakit.workflow.labelled_file import read_labelled
from lorakit.workflow.named_runs import newest_of, unknown_task
from lorakit.workflow.other_task import outputs_by_name, warn_of_other_task, warn_of_trained
from lorakit.workflow.parts import load_data
from lorakit.workflow.restore import RestoredRun, open_trained, restore_checkpoint, restore_run
from lorakit.workflow.same_data import check_same_data, tell_seen
from lorakit.workflow.trained import TrainedClassifier


@dataclass(frozen=True)
class Trust:
    """How good a classifier's probabilities are.

    Attributes:
        temperature: what its logits are divided by before the softmax; 1 where none was fitted.
        used: of the probabilities that are used.
        plain: of those without the temperature.
        fitted_here: whether the temperature was fitted on the rows of this split, which it then suits a little better than others.
    """

    temperature: float
    used: Reliability
    plain: Reliability
    fitted_here: bool


@dataclass(frozen=True)
class EvalResult(Result):
    """Scores of a run or a checkpoint.

    Attributes:
        task: the task's name.
        split: the split's name, or several with commas.
        source: the run or the model.
        rows: of all splits.
        scores: metric -> value; those of a second split are called ``metric/split``. Empty where a split has no labels.
        metric: the task's main one.
        interval: its 95 % interval on the first split; None where that has no labels.
        seconds: that predicting took.
        predictions: the file that was written, None where none was asked for.
        name: what people call the task: its own name, of own data that of the file.
        diagnosis: where the classifier is wrong on the first split; None without labels. Of classes, of several labels a row, and of
            numbers it is another one.
        by: the column that slices the rows of ``file``; empty without one.
        slices: the scores of the rows that have each of its values.
        trust: how good its probabilities are on the first split; None without labels, for several labels a row and for a number to predict.
        learnt: what the run learnt, where that is another task than the one it is scored on; else empty.
    """

    task: str
    split: str
    source: str
    rows: int
    scores: dict[str, float]
    metric: str
    interval: tuple[float, float] | None
    seconds: float
    predictions: Path | None
    name: str
    diagnosis: Diagnosis | LabelDiagnosis | NumberDiagnosis | None
    by: str
    slices: list[Slice]
    trust: Trust | None
    learnt: str = ""


def evaluate(
    run: str | Path | None = None,
    *,
    task: str | None = None,
    model: str | Path | None = None,
    split: str | None = None,
    file: str | Path | None = None,
    by: str | None = None,
    weights: str | None = None,
    predictions: str | Path | None = None,
    offline: bool = False,
    rank: int | None = None,
) -> EvalResult:
    """Score a run, or a checkpoint, by its task's own metrics.

    Args:
        run: the run's folder; where neither a run nor a model is given, the newest run of ``task`` in ``runs``.
        task: the task's name, or that of own data (``reviews`` of reviews.csv). A run knows its own; a checkpoint must be told. A run
            that learnt another one is scored where the labels of both have the same names.
        model: a checkpoint instead of a run: a folder, one that `lorakit merge` wrote too, or a hub name.
        split: which rows; the task's validation splits by default. Of a run with ``task.holdout`` these are held-out training rows, and
            ``replaced_validation`` the validation rows that they replaced.
        file: a labelled file to score instead, with the columns and labels of the run's task; labels are matched by name.
        by: a column of ``file``: the scores of each of its values too.
        weights: of a run, the ``last`` ones, or the ``best`` on the validation split; those that training.select of the run
            says by default.
        predictions: a file to write, with a row for each example; in GLUE's form for its test splits.
        offline: never touch the network.
        rank: cut each site to this rank: the best approximation of its update; of a run of search.method=dylora its first units.

    Returns:
        The scores, with a confidence interval of the main one.

    Raises:
        UsageError: where there is no such run, task, split or rank, or the run learnt a task with other labels.
        DataError: for data that cannot be used.
        RunError: for a run that is not trained yet, or whose files are damaged.

    Example:
        >>> scored = lorakit.evaluate("runs/demo-0")                           # doctest: +SKIP
        >>> scored.scores["accuracy"], scored.interval                         # doctest: +SKIP
    """
    if run is not None and model is not None:
        raise UsageError("--run and --model exclude each other", valid="one of the two, or neither for the newest run")
    if file is None and by is not None:
        raise UsageError("--by slices the rows of a file by one of its columns", valid="--by with --file")
    if file is not None and split is not None:
        raise UsageError("--file and --split exclude each other", valid="one of the two")
    if model is None:
        classifier, data = open_run_for(task, run, weights, split, offline=offline, rank=rank, with_data=file is None)
    elif task is None:
        raise UsageError("a checkpoint does not say what it was trained for", valid="a task", hint="lorakit list tasks")
    elif rank is not None:
        raise UsageError("a checkpoint's adapters are folded in: it has no ranks to choose", valid="--rank with a run")
    else:
        wanted = None if task == CUSTOM else wanted_splits(tasks.get(task), split)
        data = load_task(TaskSection(name=task), seed=0, offline=offline, splits=wanted)
        classifier = restore_checkpoint(str(model), data.task, offline=offline)
    written = None if predictions is None else Path(predictions)
    if file is None:
        return evaluate_splits(classifier, data, choose_splits(data, split), written)
    labelled = read_labelled(data.task, str(file), by, offline=offline)
    warn_of_trained(classifier.runs, labelled.data.splits[labelled.name], labelled.name)
    return evaluate_splits(classifier, labelled.data, [labelled.name], written, by=by or "", values=labelled.values)


def open_run_for(
    task: str | None,
    run: str | Path | None,
    weights: str | None,
    split: str | None,
    *,
    offline: bool,
    rank: int | None,
    with_data: bool,
) -> tuple[TrainedClassifier | TrainedEnsemble, TaskData]:
    """The run's model, of the newest run where none is named, and its data, or its task alone without data.

    Of another task than it learnt, that one's rows. UsageError where its labels are others, DataError where the split's rows are not
    the run's any more.
    """
    path = newest_of(Path("runs"), task).path if run is None else Path(run)
    if is_ensemble(path):
        if with_data:
            what = "the runs of an ensemble may have been trained on each other's validation rows"
            raise UsageError(what, where=str(path), hint=command_line("eval", path, "--file", "FILE"))
        opened = [
            open_run_for(task, each, weights, split, offline=offline, rank=rank, with_data=False)
            for each in members_of(path)
        ]
        return joined(path, opened)
    opened_run = open_trained(path, weights)[0]
    learnt = opened_run.task()
    other = None if task in (None, learnt.name, learnt.known_as) else task
    if other is not None and other not in tasks:
        raise unknown_task(Path("runs"), other)
    outputs = None if other is None else outputs_by_name(Run(path), learnt, tasks.get(other))
    replaced = replaced_splits(load_recipe(opened_run.recipe).recipe.task) if other is None else {}
    wanted = wanted_splits(learnt if other is None else tasks.get(other), split, replaced) if with_data else ()
    own_data = with_data and other is None and split not in replaced
    restored = restore_run(path, weights, offline=offline, with_data=own_data, rank=rank, splits=wanted)
    data = restored.parts.data
    if other is not None:
        section = TaskSection(name=other, max_length=restored.loaded.recipe.task.max_length)
        data = (
            load_task(section, seed=0, offline=offline, splits=wanted)
            if with_data
            else TaskData(tasks.get(other), {}, "")
        )
        warn_of_other_task(restored.run, learnt, data, wanted)
    elif with_data and split in replaced:
        data = rows_replaced(restored, split, replaced[split])
    elif with_data:
        with restored.loaded.locating_errors():
            check_same_data(restored.run, data, choose_splits(data, split))
        if set(wanted) & set(data.task.validation):
            tell_seen(restored.run)
    used = f"{restored.weights} weights" + ("" if rank is None else f", rank {rank}")
    found = TrainedClassifier(
        restored.adapted,
        restored.loaded.recipe,
        f"{path} ({used})",
        temperature=restored.temperature,
        outputs=outputs,
        learnt="" if other is None else learnt.known_as,
        runs=(path,),
    )
    return found, data


def joined(path: Path, opened: Sequence[tuple[Any, TaskData]]) -> tuple[TrainedEnsemble, TaskData]:
    """The runs of an ensemble as one, for the task of the first; the others' outputs are matched to its labels by name.

    Of a task that the runs did not learn, ``open_run_for`` has matched them already.
    """
    first, task = opened[0][0], opened[0][1].task
    members = [
        member
        if task.regression or member.learnt
        else replace(member, outputs=order_by_name(data.task.labels, task.labels))
        for member, data in opened
    ]
    return TrainedEnsemble(members, f"{path} ({len(members)} runs)", learnt=first.learnt), opened[0][1]


def rows_replaced(restored: RestoredRun, split: str, own: str) -> TaskData:
    """The validation rows that ``task.holdout`` replaced in the run, as the one split of its task: they had no part in it."""
    recipe = restored.loaded.recipe
    plainly = replace(recipe, task=replace(recipe.task, holdout=None))
    with restored.loaded.locating_errors():
        data = load_data(plainly, splits=(own,), learnt=restored.run.task())
        check_same_data(restored.run, data, ())
    warn_of_trained((restored.run.path,), data.splits[own], split)
    return replace(data, splits={split: data.splits[own]})


def wanted_splits(task: Task, split: str | None, more: Iterable[str] = ()) -> Sequence[str]:
    """The splits to read: the one that was asked for, or all validation splits. UsageError where a task has none of that name.

    more: names that it has beside.
    """
    known = ("train", *task.validation, *task.test, *more)
    if split is not None and split not in known:
        raise UsageError(f"{task.name} has no split '{split}'", valid=", ".join(known), hint=nearest(split, known))
    return task.validation if split is None else (split,)


def evaluate_splits(
    trained: TrainedClassifier | TrainedEnsemble,
    data: TaskData,
    splits: Sequence[str],
    predictions: Path | None,
    *,
    by: str = "",
    values: Sequence[str] | None = None,
) -> EvalResult:
    """Predict the splits, score those that have labels, write the predictions where they are wanted.

    Metrics of the first split have their own names, those of further ones ``name/split``; the interval and the diagnosis are the
    first's. values: what each of its rows has in the column ``by``.
    """
    if predictions is not None and len(splits) > 1:
        raise UsageError("--predictions takes one split", valid=", ".join(splits), hint=f"--split {splits[0]}")
    task, metric = data.task, main_metric(data.task)
    if predictions is not None:
        check_form(predictions, task, splits[0])
    scores: dict[str, float] = {}
    slices: list[Slice] = []
    bounds, reliable, rows = None, None, 0
    found: Diagnosis | LabelDiagnosis | NumberDiagnosis | None = None
    started = time.perf_counter()
    for split in splits:
        encoded, logits = trained.logits(data, split)
        decisions = decide(task, logits)
        chances = probabilities_of(task, logits, trained.temperature)
        rows += len(encoded)
        if encoded.labels is not None:
            scores |= of_split(score_logits(task, logits, encoded), split, splits)
            if split == splits[0]:
                references = encoded.labels.numpy()
                bounds = interval(task, metric, decisions, references)
                slices = [] if values is None else by_value(task, decisions, references, values)
                rest = encoded.lengths, encoded.idx, data.splits[split]
                if chances is None:
                    found = diagnose_numbers(task, decisions, references, *rest)
                elif task.multi_label:
                    found = diagnose_labels(task, decisions, chances, references, *rest)
                else:
                    fitted_here = trained.temperature != 1 and not trained.learnt and split == task.validation[0]
                    reliable = trust(logits, chances, references, trained.temperature, fitted_here=fitted_here)
                    found = diagnose(task, chances, references, *rest)
        if predictions is not None:
            write_predictions(predictions, task, encoded.idx, decisions, chances, split=split, rows=data.splits[split])
    return EvalResult(
        task=task.name,
        split=", ".join(splits),
        source=trained.source,
        rows=rows,
        scores=scores,
        metric=metric,
        interval=bounds,
        seconds=time.perf_counter() - started,
        predictions=predictions,
        name=task.known_as,
        diagnosis=found,
        by=by,
        slices=slices,
        trust=reliable,
        learnt=trained.learnt,
    )


def trust(
    logits: NDArray[np.floating],
    chances: NDArray[np.floating],
    references: NDArray[np.int64],
    temperature: float,
    *,
    fitted_here: bool,
) -> Trust:
    """How good the probabilities of rows are, with and without the temperature."""
    used = reliability(chances, references)
    plain = used if temperature == 1.0 else reliability(probabilities(logits), references)
    return Trust(temperature, used, plain, fitted_here)


def choose_splits(data: TaskData, split: str | None) -> Sequence[str]:
    """The split that was asked for, or all validation splits. UsageError where there is none of that name."""
    if split is not None and split not in data.splits:
        raise UsageError(
            f"{data.task.name} has no split '{split}' here",
            valid=", ".join(data.splits),
            hint=nearest(split, data.splits),
        )
    return data.task.validation if split is None else (split,)
