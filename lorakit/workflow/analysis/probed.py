"""The tasks that ``lorakit analyze --others`` probes: their rows, some to fit on and some to score, and what a probe cannot take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lorakit.artifacts.provenance import Digests, text_digests
from lorakit.errors import DataError, UsageError, command_line, nearest
from lorakit.recipe.document import SUFFIXES
from lorakit.recipe.load import load_recipe, names_data, run_folder, shipped_recipes
from lorakit.recipe.schema import CUSTOM, TaskSection
from lorakit.tasks.baselines import some_rows, too_alike
from lorakit.tasks.sources import load_task
from lorakit.tasks.task import Task, TaskData, tasks
from lorakit.workflow.parts import load_data

if TYPE_CHECKING:
    from datasets import Dataset

OPTION = "--others"


@dataclass(frozen=True)
class Probed:
    """A task's rows: train, which probes are fitted on, and held of its ``split``, on which they are scored; both drawn once, in order."""

    data: TaskData
    split: str
    train: Dataset
    held: Dataset

    @property
    def task(self) -> Task:
        """What is to be told of a row."""
        return self.data.task

    @property
    def name(self) -> str:
        """What people call it."""
        return self.task.known_as

    @property
    def labels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Those of train and of held (n,)."""
        train, held = (np.asarray(rows.with_format("numpy")["label"][:], np.int64) for rows in (self.train, self.held))
        return train, held

    @property
    def digests(self) -> tuple[Digests, Digests]:
        """Those of the texts of train and of held (n,)."""
        return text_digests(self.train), text_digests(self.held)


def open_others(named: Sequence[str | Path], *, offline: bool) -> list[TaskData]:
    """The data of tasks of the catalogue, recipes, and files of texts and labels; training rows and the first validation split.

    UsageError, DataError or RecipeError for what is none, and for a task that no probe tells rows right and wrong of.
    """
    found: dict[str, TaskData] = {}
    for each in named:
        data = open_other(str(each), offline=offline)
        name = data.task.known_as
        if name in found:
            hint = "a copy of the file under a name of its own" * (data.task.name == CUSTOM)
            raise UsageError(f"two tasks are called {name}", where=f"{OPTION} {each}", valid="each once", hint=hint)
        if why := why_not(data.task):
            raise UsageError(f"{name} cannot be probed: {why}", where=f"{OPTION} {each}", valid="a task of classes")
        found[name] = data
    return [*found.values()]


def open_other(named: str, *, offline: bool) -> TaskData:
    """The data of one."""
    if named in tasks:
        splits = ("train", tasks.get(named).validation[0])
        return load_task(TaskSection(name=named), seed=0, offline=offline, splits=splits)
    recipes = shipped_recipes()
    if not (named.endswith(SUFFIXES) or named in recipes or run_folder(named) or names_data(named)):
        names = tasks.names()
        what, valid = (
            f"there is no task called '{named}'",
            f"{', '.join(names)}; a recipe, or a file of texts and labels",
        )
        raise UsageError(what, where=OPTION, valid=valid, hint=nearest(named, names))
    try:
        loaded = load_recipe(named, offline=offline)
    except DataError as error:  # columns that cannot be told, and a recipe can name
        copied = command_line("copy", named, "own.yaml", "--text", "COLUMN", "--label", "COLUMN")
        hint = f"{copied}, and {OPTION} own.yaml"
        raise DataError(
            [replace(each, hint=hint) if each.hint.startswith(f"{each.key}=") else each for each in error.problems]
        ) from error
    with loaded.locating_errors():
        return load_data(loaded.recipe)


def why_not(task: Task) -> str:
    """Why no probe tells rows right and wrong of a task; empty where it does."""
    if task.regression:
        return "it predicts a number, and a row is not right or wrong"
    return "a row has any number of labels, and is not right or wrong" if task.multi_label else ""


def probed(data: TaskData, rows: int) -> Probed:
    """At most ``rows`` training rows and as many of the first validation split, drawn once. UsageError where they are too few to fit on."""
    split = data.task.validation[0]
    chosen = [data.splits[name].select(some_rows(len(data.splits[name]), rows)[0]) for name in ("train", split)]
    found = Probed(data, split, *chosen)
    if (number := len(found.train)) < data.task.num_labels:
        what = (
            f"{found.name} has {data.task.num_labels:,} classes, and a probe would be fitted on {number:,} of its rows"
        )
        enough = len(data.splits["train"]) >= data.task.num_labels
        raise UsageError(what, valid="a row for each class, or more", hint="--probe-rows with more of them" * enough)
    if problem := too_alike(found.labels[0]):
        raise UsageError(f"{found.name} cannot be probed: {problem}", valid="rows of two classes or more")
    return found


def same_task(first: TaskData, second: TaskData) -> bool:
    """Whether two tasks are one: of one name in the catalogue, or of the same columns of the same training files."""
    if first.task.name != CUSTOM or second.task.name != CUSTOM:
        return first.task.name == second.task.name
    if (first.task.text, first.task.label) != (second.task.text, second.task.label):
        return False
    pair = [data.sources.get("train") for data in (first, second)]
    return None not in pair and len({source.digest() for source in pair if source is not None}) == 1
