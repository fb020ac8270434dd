"""Own data of a run whose training rows are gone: validation and test files alone, with the labels that the run learnt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import glob, has_magic

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks.data_files import find_files
from lorakit.tasks.data_sets import HUB, DataSet, find_data_set
from lorakit.tasks.label_order import as_data
from lorakit.tasks.label_sets import LabelSets
from lorakit.tasks.labels import INTEGER, LabelMap
from lorakit.tasks.rows import Rows
from lorakit.tasks.splits import build_split
from lorakit.tasks.stored_rows import Source
from lorakit.tasks.tabular import columns_of, read_source
from lorakit.tasks.task import Task, TaskData


def is_gone(named: str | None) -> bool:
    """Whether a recipe key names files or a folder, and none of them is there any more."""
    if not named or named.startswith(HUB):
        return False
    path = os.path.expanduser(named)
    return not (os.path.exists(path) or (has_magic(path) and glob(path)))


def load_without_training(section: TaskSection, learnt: Task, splits: Sequence[str], *, offline: bool) -> TaskData:
    """``splits``, of validation and test, from their own files; ``learnt`` is the task as the run wrote it down.

    Raises DataError where a split has no file of its own: its rows were a part of the training rows.
    """
    sources: dict[str, Source] = {}
    for split in splits:
        named, key = getattr(section, split), f"task.{split}"
        if named is None:
            what = f"there is no file {section.train} any more, and the {split} rows were a part of it"
            hint = "put it back, or score another labelled file by --file FILE"
            raise DataError(what, key="task.train", hint=hint)
        found = find_data_set(named, key, offline=offline) or find_files(named, key, labelled=split != "test")
        sources[split] = found.split(split, key) if isinstance(found, DataSet) else found
    built = {}
    for split, source in sources.items():
        columns = columns_of(section, learnt.text, learnt.label, split)
        rows = read_source(source, columns, key=f"task.{split}")
        built[split] = build_split(rows, columns, labels_as_learnt(learnt, rows))
    origin = (
        f"{', '.join(source.name for source in sources.values())}, without the training rows: {section.train} is gone"
    )
    return TaskData(learnt, built, origin, sources)


def labels_as_learnt(task: Task, rows: Rows) -> LabelMap | LabelSets | None:
    """Labels by the names that were learnt; all of them may be ids instead where no name is a number. None for a number to predict."""
    if task.regression:
        return None
    if task.multi_label:
        return LabelSets.of_names(task.labels, task.label_separator or None)
    if rows.labels is None or any(INTEGER.fullmatch(name) for name in task.labels):
        return LabelMap(task.labels, {as_data(name): place for place, name in enumerate(task.labels)})
    return LabelMap.of_names(task.labels, rows)
