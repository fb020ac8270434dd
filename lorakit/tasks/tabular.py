"""``task.name: custom``: the user's own csv, tsv, jsonl or parquet files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lorakit.errors import DataError, Problem
from lorakit.recipe.schema import CUSTOM
from lorakit.tasks.labels import LabelMap, fold, written
from lorakit.tasks.readers import READERS
from lorakit.tasks.rows import Columns, Rows, read_rows
from lorakit.tasks.splits import build_split
from lorakit.tasks.table import clipped
from lorakit.tasks.task import Task, TaskData

if TYPE_CHECKING:
    from datasets import Dataset

    from lorakit.recipe.schema import TaskSection

HOLD_OUT_STREAM = 2  # keeps the held-out draw apart from the other draws of the same seed
SIBLINGS = (("1", "2"), ("_a", "_b"), ("premise", "hypothesis"))  # endings of two columns that are one example


def load_custom(section: TaskSection, *, seed: int) -> TaskData:
    """The custom task and its splits.

    Label names come from ``labels``, else from the training file: integers in their order (0..n-1 stay as they are),
    other labels sorted. Without a validation file ``validation_fraction`` of the training rows is held out, drawn by
    ``seed``; idx stays the row's number in its file. Raises DataError about anything wrong, with file and lines.
    """
    text, label = check_section(section)
    files = {name: path for name in ("train", "validation", "test") if (path := getattr(section, name)) is not None}
    columns = {name: columns_of(section, text, label, name) for name in files}
    rows = {name: read_file(path, columns[name], key=f"task.{name}") for name, path in files.items()}
    if len(text) == 1:
        refuse_half_pair(rows["train"], text[0])
    labels = None if section.regression else label_map(section, rows["train"], label)
    task = custom_task(section, text, label, labels.names if labels else ())
    hint = "" if section.labels else "give all label names as task.labels"
    splits = {name: build_split(rows[name], columns[name], labels, label_hint=hint) for name in files}
    if "validation" not in splits:
        splits = hold_out(splits.pop("train"), section.validation_fraction, seed) | splits
    return TaskData(task, splits, ", ".join(files.values()))


def columns_of(section: TaskSection, text: tuple[str, ...], label: str, split: str) -> Columns:
    """What is read of a split's file."""
    keys = ("task.text", "task.text_pair")
    return Columns(text, label, section.regression, split == "test", keys=keys, label_key="task.label")


def check_section(section: TaskSection) -> tuple[tuple[str, ...], str]:
    """The text columns and the label column. Raises DataError with everything that is wrong in the section itself."""
    problems = [
        Problem(f"a custom task needs {what}", key=f"task.{key}", hint=f"task.{key}={example}")
        for key, what, example in (
            ("train", "a training file", "train.csv"),
            ("text", "the name of its text column", "sentence"),
            ("label", "the name of its label column", "label"),
        )
        if not getattr(section, key)
    ]
    if section.data != "auto":
        problems.append(Problem("a custom task reads task.train, not task.data", key="task.data", hint="leave it out"))
    if section.text and section.text == section.text_pair:
        problems.append(
            Problem(f"both texts are the column '{section.text}'", key="task.text_pair", valid="another column")
        )
    if section.label and section.label in (section.text, section.text_pair):
        problems.append(
            Problem(f"column '{section.label}' is both text and label", key="task.label", valid="another column")
        )
    if section.labels and section.regression:
        problems.append(Problem("a number to predict has no label names", key="task.labels", hint="leave it out"))
    if section.labels and (len({fold(written(name) or name) for name in section.labels}) < max(2, len(section.labels))):
        problems.append(Problem("not a list of names", key="task.labels", valid="two or more, all different"))
    if not section.validation and not 0 < section.validation_fraction < 1:
        wrong = f"{section.validation_fraction} of the rows cannot be held out"
        problems.append(Problem(wrong, key="task.validation_fraction", valid="more than 0, less than 1"))
    if problems:
        raise DataError(problems)
    columns = (section.text, section.text_pair) if section.text_pair else (section.text,)
    return tuple(str(column) for column in columns), str(section.label)


def read_file(path: str, columns: Columns, *, key: str) -> Rows:
    """The rows of one file, by its extension. Raises DataError where it is missing, of another kind, broken or empty."""
    file = Path(os.path.expanduser(path))
    if file.suffix.lower() not in READERS:
        raise DataError(f"lorakit cannot tell what kind of file {clipped(path)} is", key=key, valid=", ".join(READERS))
    if not os.path.isfile(file):  # which takes any name, where pathlib raises
        raise DataError(
            f"there is no file {clipped(path)}",
            key=key,
            hint="" if file.is_absolute() else f"the full path, or one from {Path.cwd()}",
        )
    rows = read_rows(file, columns)
    if not len(rows):
        raise DataError("the file has a header but no rows", where=path, key=key)
    return rows


def refuse_half_pair(rows: Rows, text: str) -> None:
    """Raise DataError where ``text`` looks like one half of a pair and the other half lies beside it."""
    for first, second in SIBLINGS:
        for ending, other in ((first, second), (second, first)):
            sibling = text.removesuffix(ending) + other
            if text.endswith(ending) and sibling in rows.names:
                pair = (text, sibling) if ending == first else (sibling, text)
                raise DataError(
                    f"{rows.path} holds pairs ('{pair[0]}' and '{pair[1]}'), and only '{text}' is used",
                    key="task.text_pair",
                    hint=f"task.text={pair[0]} task.text_pair={pair[1]}; to use one of them alone, rename it in the file",
                )


def label_map(section: TaskSection, train: Rows, label: str) -> LabelMap:
    """From the labels in the files to ids: by the names given, else as found in the training file."""
    if section.labels:
        return LabelMap.of_names(section.labels, train)
    return LabelMap.found_in(train, label)


def custom_task(section: TaskSection, text: tuple[str, ...], label: str, labels: tuple[str, ...]) -> Task:
    """The Task of a custom section."""
    if section.regression:
        metrics: tuple[str, ...] = ("pearson", "spearman", "mse")
    else:
        metrics = ("accuracy", "f1" if len(labels) == 2 else "macro_f1")
    return Task(CUSTOM, f"your own data: {section.train}", text, label, labels, metrics).with_metric(section.metric)


def hold_out(rows: Dataset, fraction: float, seed: int) -> dict[str, Dataset]:
    """Train and validation splits of ``rows``: round(fraction * n) rows are drawn by ``seed``, at least one on each side."""
    total = len(rows)
    if total < 2:
        raise DataError(
            "one row is not enough to train on some and validate on others",
            key="task.train",
            hint="give task.validation",
        )
    count = min(max(round(fraction * total), 1), total - 1)
    order = np.random.default_rng([HOLD_OUT_STREAM, seed]).permutation(total)
    return {"train": rows.select(np.sort(order[count:])), "validation": rows.select(np.sort(order[:count]))}
