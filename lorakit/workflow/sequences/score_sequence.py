"""``lorakit eval`` of a sequence: the accuracy of every task after every task, with the task known and not known.

Known (task-incremental): a row is answered by the head of its task. Not known (class-incremental): the logits of all heads learnt so
far are compared, and an answer is right that has the row's label by name: labels of several tasks that are called the same are one. Of
``color`` tasks the head that answers is that of the task which the frozen features choose (``prototypes``).
After a task, the model is the adapter of that task's run under the head of each task's own run; of ``separate`` tasks each keeps its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import load_head, load_sites
from lorakit.artifacts.base_file import kept_precisions, load_base
from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import Run
from lorakit.backbone.few_bits import Precision
from lorakit.backbone.shared import SharedBackbone
from lorakit.backbone.trained_head import FITTED
from lorakit.errors import RunError, UsageError
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.sequence import APART, COLOR
from lorakit.reporting.transfer import average_accuracy, backward_transfer, forgetting, forward_transfer
from lorakit.result import Result
from lorakit.tasks.task import TaskData
from lorakit.workflow.accelerator import this_process
from lorakit.workflow.evaluate import choose_splits
from lorakit.workflow.head_start import start_head
from lorakit.workflow.import_peft import write_run
from lorakit.workflow.one_backbone import check_one_backbone
from lorakit.workflow.parts import Features, Parts
from lorakit.workflow.restore import check_trust, open_trained, same_labels
from lorakit.workflow.same_data import check_same_base, check_same_data, combined
from lorakit.workflow.sequences.folder import SequenceFolder, open_sequence
from lorakit.workflow.sequences.methods import merged_labels, settings_of
from lorakit.workflow.sequences.prototypes import features_of, nearest_task, prototypes_of
from lorakit.workflow.setup import adapt, assemble
from lorakit.workflow.trained import TrainedClassifier

logger = logging.getLogger(__name__)

Logits = NDArray[np.floating]


@dataclass(frozen=True)
class Reading(Result):
    """A matrix of accuracies, and what it comes to (``lorakit.reporting.transfer`` has the formulas).

    Attributes:
        matrix: after each task (a row) the accuracy of each task; None for one that is not learnt yet.
        average: of all tasks after the last one.
        backward: what learning the later tasks did to the earlier ones (BWT); below 0 they were forgotten.
        forgetting: how far the earlier tasks fell from their best.
    """

    matrix: list[list[float | None]]
    average: float
    backward: float
    forgetting: float


@dataclass(frozen=True)
class SequenceScores(Result):
    """What a sequence of tasks came to.

    Attributes:
        source: its folder.
        continual: the method, and its settings.
        tasks: their names, in the order in which they were learnt.
        split: the rows that were scored.
        rows: how many, of each task.
        known: the reading in which the task of a row is known; its matrix has, above the diagonal, what a task's head before its training
            gives on what was learnt before it. Of ``separate`` tasks nothing is.
        start: of each task, what its head before its training gives on the backbone alone; None where it was not asked for.
        forward: what learning the earlier tasks did to a task before it was learnt (FWT). A head that is drawn at random says little
            then: model.head_start=fitted has one that reads the frozen features.
        unknown: the reading in which it is not: all heads answer, over ``labels``.
        labels: of all tasks, each name once.
        parameters: of all adapters and heads that are kept to answer for every task.
    """

    source: Path
    continual: dict[str, Any]
    tasks: list[str]
    split: str
    rows: list[int]
    known: Reading
    start: list[float | None]
    forward: float | None
    unknown: Reading
    labels: list[str]
    parameters: int

    def write(self, path: Path) -> None:
        """Into the sequence's folder, where ``source`` goes without saying."""
        write_json(path, {name: value for name, value in self.to_dict().items() if name != "source"})


def evaluate_sequence(path: str | Path, *, split: str | None = None, offline: bool = False) -> SequenceScores:
    """Score every task of a sequence after every task, with the task of a row known and not known.

    Args:
        path: the folder of a sequence whose tasks are all learnt.
        split: which rows; the first validation split of each task by default.
        offline: never touch the network.

    Returns:
        The matrices of accuracy, average accuracy, backward and forward transfer (Lopez-Paz and Ranzato 2017) and forgetting (Chaudhry
        et al. 2018).

    Raises:
        UsageError: where there is no such sequence or split.
        RunError: where a task is not learnt yet, or its files are damaged.
        DataError: for rows that are not those of the runs any more.

    Example:
        >>> scores = lorakit.evaluate_sequence("runs/topics-0")                # doctest: +SKIP
        >>> scores.known.average, scores.unknown.average                       # doctest: +SKIP
    """
    return score_sequence(open_sequence(path), split, offline=offline)


def score_sequence(folder: SequenceFolder, split: str | None = None, *, offline: bool = False) -> SequenceScores:
    """The same of a folder that is open."""
    learnt = [open_task(run, split, offline=offline) for run in folder.runs]
    settings, total = folder.sequence.continual, len(learnt)
    separate, backbone = settings.method in APART, OneBackbone(learnt)
    for later in () if separate else learnt[1:]:
        if later.loaded.recipe.model.head_start == FITTED:  # its head before its training is fitted again
            check_training_rows(later)
    chosen = choices(learnt, settings.prototypes or 0, backbone) if settings.method == COLOR else None
    known: list[list[float | None]] = [[None] * total for _ in learnt]
    unknown: list[list[float | None]] = [[None] * total for _ in learnt]
    start: list[float | None] = [None] * total
    parameters = 0
    for after in range(total):
        answers: list[list[Logits]] = [[] for _ in range(after + 1)]
        for head in range(after + 1):
            owner = learnt[head] if separate else learnt[after]
            classifier = backbone.with_head(owner, learnt[head])
            for task in range(after + 1):
                answers[task].append(classifier.logits(learnt[task].data, learnt[task].split)[1])
            if after == total - 1 and (separate or head == after):
                parameters += classifier.adapted.adapter_parameters()
            if after == total - 1:
                parameters += classifier.adapted.head_parameters()
        for task in range(after + 1):
            known[after][task] = right(learnt[task], [learnt[task]], [answers[task][task]])
            given = answers[task] if chosen is None else silenced(answers[task], chosen[after][task])
            unknown[after][task] = right(learnt[task], learnt[: after + 1], given)
        logger.info("scored after task %d of %d", after + 1, total)
    if not separate:
        for task in range(1, total):
            start[task], known[task - 1][task] = before(learnt[task], learnt[task - 1])
    return SequenceScores(
        source=folder.path,
        continual=settings_of(folder.sequence),
        tasks=folder.sequence.names,
        split=", ".join(dict.fromkeys(task.split for task in learnt)),
        rows=[len(task.data.splits[task.split]) for task in learnt],
        known=reading(known),
        start=start,
        forward=forward_transfer(known, start),
        unknown=reading(unknown),
        labels=merged_labels([task.data.task for task in learnt]),
        parameters=parameters,
    )


def choices(learnt: Sequence[LearntTask], prototypes: int, backbone: OneBackbone) -> list[list[NDArray[np.int64]]]:
    """After each task, for each task so far, the task (rows,) whose prototypes are nearest to a row."""
    for task in learnt:
        check_training_rows(task)
    loaded = [backbone.parts(task.loaded, task.data) for task in learnt]
    centres = [prototypes_of(parts, prototypes) for parts in loaded]
    readers = {parts.cut: parts for parts in loaded}  # they have the same frozen model
    features: list[list[Features]] = []
    for task in learnt:
        read = {cut: features_of(parts, task.data.splits[task.split]) for cut, parts in readers.items()}
        features.append([read[parts.cut] for parts in loaded])
    return [
        [nearest_task(own[: after + 1], centres[: after + 1]) for own in features[: after + 1]]
        for after in range(len(learnt))
    ]


def check_training_rows(task: LearntTask) -> None:
    """DataError where the rows that a task was trained on are others now."""
    with task.loaded.locating_errors():
        check_same_data(task.run, task.data, ["train"])


def silenced(answers: Sequence[Logits], chosen: NDArray[np.int64]) -> list[Logits]:
    """The logits of all heads (rows, labels), of each row those of its chosen task alone."""
    return [np.where((chosen == head)[:, None], own, -np.inf) for head, own in enumerate(answers)]


def reading(matrix: list[list[float | None]]) -> Reading:
    """A matrix, and what it comes to."""
    return Reading(matrix, average_accuracy(matrix), backward_transfer(matrix), forgetting(matrix))


@dataclass(frozen=True)
class LearntTask:
    """A task's run, its recipe, the rows to score, and those of its weights that are used."""

    run: Run
    loaded: LoadedRecipe
    data: TaskData
    split: str
    weights: str = "last"

    @property
    def adapter(self) -> Path:
        """The folder of these weights."""
        return self.run.weights(self.weights)


def open_task(run: Run, split: str | None = None, *, offline: bool = False) -> LearntTask:
    """A task of a sequence. UsageError where it has no such split, or one without labels."""
    loaded = load_recipe(run.recipe, offline=offline)
    check_trust(loaded)
    data = same_labels(run, loaded)
    chosen = choose_splits(data, split)[0]
    with loaded.locating_errors():
        check_same_data(run, data, [chosen])
    if "label" not in data.splits[chosen].column_names:
        raise UsageError(f"the split {chosen} of {run.path.name} has no labels", valid="a split with labels")
    return LearntTask(run, loaded, data, chosen, open_trained(run.path, None)[1])


class OneBackbone:
    """The adapters and heads of ``learnt`` tasks on one backbone in memory; each on one of its own where they cannot share it."""

    def __init__(self, learnt: Sequence[LearntTask]):
        self.shared: SharedBackbone | None = SharedBackbone()
        try:
            for task in learnt[1:]:
                check_one_backbone(learnt[0].run, task.run)
        except UsageError:  # a start that rounds the weights for itself
            self.shared = None

    def parts(self, loaded: LoadedRecipe, data: TaskData, precisions: Mapping[str, Precision] | None = None) -> Parts:
        """What the recipe names, on the shared backbone where there is one."""
        if self.shared is not None:
            try:
                parts = assemble(loaded, data, precisions=precisions, shared=self.shared)
            except RunError:  # an architecture whose head cannot be told from the rest
                self.shared = None
            else:
                self.shared.model.to(this_process().device)
                return parts
        return assemble(loaded, data, precisions=precisions)

    def with_head(self, owner: LearntTask, task: LearntTask) -> TrainedClassifier:
        """The adapter that the run of ``owner`` ended with, under the head that ``task``'s did."""
        recipe = replace(task.loaded.recipe, adapter=owner.loaded.recipe.adapter)
        told = TaskData(task.data.task, {}, "")
        parts = self.parts(replace(task.loaded, recipe=recipe), told, kept_precisions(owner.run, recipe))
        check_same_base(task.run, parts.backbone)
        adapted = adapt(parts, statistics=None)
        load_base(adapted, owner.run)
        load_sites(adapted, owner.adapter)
        load_head(adapted, task.adapter)
        return classifier_of(adapted, task)


def write_final(folder: SequenceFolder) -> None:
    """Make a run of each earlier task as the last one left it, which answers and is scored as any run."""
    pairs = zip(folder.runs[:-1], folder.sequence.tasks, folder.final, strict=False)
    missing = [(run, given, target) for run, given, target in pairs if target != run.path and not target.exists()]
    if not missing:
        return
    last, tasks = open_task(folder.runs[-1]), [open_task(run) for run, _, _ in missing]
    backbone = OneBackbone([last, *tasks])
    for (run, given, target), task in zip(missing, tasks, strict=True):
        owned = last.loaded.recipe.adapter
        own = {
            name: getattr(given.recipe.adapter, name) for name in ("start", "start_head", "updates", "update_options")
        }
        loaded = replace(task.loaded, recipe=replace(task.loaded.recipe, adapter=replace(owned, **own)))
        origin = {
            "combined": [str(run.path), str(last.run.path)],
            "method": f"continual {folder.sequence.continual.method}",
        }
        adapted = backbone.with_head(last, task).adapted
        write_run(target, loaded, task.data.task, adapted, origin, combined([run, last.run]))


def before(task: LearntTask, earlier: LearntTask) -> tuple[float, float]:
    """The accuracy of a task whose head is as it was before its training, on the backbone alone and on the adapter of an earlier one."""
    recipe = replace(task.loaded.recipe, adapter=earlier.loaded.recipe.adapter)
    parts = assemble(replace(task.loaded, recipe=recipe), task.data)
    start_head(parts)
    alone = AdaptedModel(parts.backbone, {}, None)
    bare = classifier_of(alone, task).logits(task.data, task.split)[1]
    adapted = adapt(parts, statistics=None)
    load_sites(adapted, earlier.adapter)
    found = classifier_of(adapted, task).logits(task.data, task.split)[1]
    return right(task, [task], [bare]), right(task, [task], [found])


def classifier_of(adapted: AdaptedModel, task: LearntTask) -> TrainedClassifier:
    """The model, ready to answer as the task's recipe reads texts."""
    adapted.model.eval()
    return TrainedClassifier(adapted, task.loaded.recipe, str(task.run.path))


def right(task: LearntTask, heads: Sequence[LearntTask], logits: Sequence[Logits]) -> float:
    """The share of a task's rows whose label is that of the largest of all heads' logits (rows, labels)."""
    names = np.array([label for head in heads for label in head.data.task.labels])
    found = names[np.concatenate(logits, axis=1).argmax(axis=1)]
    labels = np.array(task.data.task.labels)[np.asarray(task.data.splits[task.split]["label"])]
    return float(np.mean(found == labels))
