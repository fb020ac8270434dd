"""Several runs as one classifier: the mean of their probabilities, or of their numbers. A folder with ensemble.json in it names them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorakit.artifacts.files import write_json
from lorakit.artifacts.records import read_record, reading
from lorakit.artifacts.run import ENSEMBLE, claim, open_run
from lorakit.errors import UsageError
from lorakit.recipe.overlays import as_list
from lorakit.result import Result
from lorakit.tasks.batching import Encoded
from lorakit.tasks.label_order import order_by_name, told
from lorakit.tasks.task import Task, TaskData
from lorakit.training.evaluation import probabilities_of
from lorakit.workflow.trained import TrainedClassifier

LEAST = 1e-12  # probability, whose logarithm is still a number


@dataclass(frozen=True)
class Ensemble(Result):
    """Runs that answer together.

    Attributes:
        out: the folder that names them.
        runs: their folders.
        labels: of the first; the others' are matched by name.
    """

    out: Path
    runs: list[Path]
    labels: tuple[str, ...]


def ensemble(runs: Sequence[str | Path], *, out: str | Path) -> Ensemble:
    """Make one classifier of several runs of the same labels: folds of one file, seeds, or other recipes.

    Args:
        runs: their folders, two or more. They stay where they are, and are read each time.
        out: a folder for the file that names them, to predict with and to evaluate on a file as on a run.

    Returns:
        The folder, and the labels.

    Raises:
        UsageError: for fewer than two runs, or runs whose labels or kinds of task differ, or a folder that holds something else.
        RunError: for a run that is not trained yet.

    Example:
        >>> both = lorakit.ensemble(["runs/reviews-0", "runs/reviews-1"], out="runs/reviews-both")     # doctest: +SKIP
        >>> lorakit.load(both.out).predict("a film of quiet wonders").label                             # doctest: +SKIP
    """
    folders = [Path(run) for run in as_list(runs)]
    if len(folders) < 2:
        raise UsageError("an ensemble is two runs or more", valid="RUN RUN")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("a run is named twice, which would count its answers twice", valid="different runs")
    claim_together(Path(out), folders)
    first, *others = [(folder, open_run(folder).task()) for folder in folders]
    for folder, task in others:
        check_alike(first, (folder, task))
    target = Path(out)
    write_json(target / ENSEMBLE, {"runs": [os.path.relpath(folder.resolve(), target.resolve()) for folder in folders]})
    return Ensemble(target, folders, first[1].labels)


def claim_together(folder: Path, runs: Sequence[Path]) -> None:
    """UsageError where the ensemble of ``runs`` would lie in a run, which it would answer in place of, or among other things."""
    home = folder.resolve()
    within = any(run.resolve().parent == home and run.exists() for run in runs)
    if (folder / "recipe.yaml").exists():
        raise UsageError("is a run itself", where=str(folder), hint="another folder")
    if not within and not is_ensemble(folder):
        claim(folder, hint="another folder")


def check_alike(first: tuple[Path, Task], other: tuple[Path, Task]) -> None:
    """UsageError where two runs do not answer the same question."""
    (folder, task), (path, theirs) = first, other
    if (task.pair, task.multi_label) != (theirs.pair, theirs.multi_label) or order_by_name(
        theirs.labels, task.labels
    ) is None:
        what = f"its labels are {told(theirs.labels)}, and those of {folder} {told(task.labels)}"
        raise UsageError(what, where=str(path), valid="runs with the same labels, of single texts or of pairs all")


def is_ensemble(folder: Path) -> bool:
    """Whether a folder names runs that answer together."""
    return (folder / ENSEMBLE).is_file()


def members_of(folder: Path) -> list[Path]:
    """The runs of an ensemble. RunError where its file is broken."""
    path, what = folder / ENSEMBLE, "an ensemble"
    record = read_record(path, what)
    with reading(path, what):
        if len(record["runs"]) < 2 or not all(isinstance(run, str) for run in record["runs"]):
            raise ValueError("runs is not a list of two or more folders")
    return [Path(os.path.normpath(folder / run)) for run in record["runs"]]


def together(parts: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """The mean of what the runs say, (rows, labels) each: probabilities, or numbers."""
    return reduce(np.add, parts) / len(parts)


@dataclass(frozen=True)
class TrainedEnsemble:
    """Trained classifiers that answer together; source: what to call them."""

    members: list[TrainedClassifier]
    source: str
    temperature: float = 1.0
    learnt: str = ""

    @property
    def runs(self) -> tuple[Path, ...]:
        """The folders of all."""
        return tuple(run for member in self.members for run in member.runs)

    def logits(self, data: TaskData, split: str) -> tuple[Encoded, NDArray[np.floating]]:
        """A tokenised split, and logits (rows, labels) whose probabilities are the means of the members'."""
        task = data.task
        found = [(member, *member.logits(data, split)) for member in self.members]
        encoded = found[0][1]
        if task.regression:
            return encoded, together([logits for _, _, logits in found])
        chances = [probabilities_of(task, logits, member.temperature) for member, _, logits in found]
        mean = np.clip(together([each for each in chances if each is not None]), LEAST, 1)
        if task.multi_label:
            return encoded, np.log(mean) - np.log(np.clip(1 - mean, LEAST, 1))
        return encoded, np.log(mean)
