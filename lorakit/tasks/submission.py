"""Files of predictions: GLUE's submission form for the test splits of GLUE tasks, a csv, jsonl or parquet file for all others.

GLUE's form is tab separated: ``index``, ``prediction``, which is a label's name (MNLI, QNLI, RTE), a score from 0.000 to 5.000
(STS-B), else the label's id. All others have ``idx``, the texts and ``label`` of the row, ``prediction`` (the label's name, several
with a separator between them, or the number) and, where they are known, ``probability_<name>`` of every label.

Both have a header and one row an example, in the order of idx.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import UsageError
from lorakit.tasks.answer_files import answer_file, writer_of
from lorakit.tasks.label_sets import joined
from lorakit.tasks.task import Task, named_labels

if TYPE_CHECKING:
    from datasets import Dataset


def prediction_rows(
    task: Task, idx: Sequence[int] | NDArray[np.int64], predictions: NDArray[Any]
) -> list[tuple[int, str]]:
    """Rows (index, prediction) in the order of idx, as GLUE's submission wants them; label names for tasks outside GLUE.

    predictions: shape (n,), class ids, or floats for regression; (n, labels) of 0 and 1 for several labels a row.
    """
    return [(idx[row], submitted(task, predictions[row])) for row in np.argsort(idx, kind="stable").tolist()]


def submitted(task: Task, prediction: Any) -> str:
    """One prediction in GLUE's form."""
    if task.submission == "score":
        return f"{min(max(float(prediction), 0.0), 5.0):.3f}"
    return str(int(prediction)) if task.submission == "id" else spoken(task, prediction)


def spoken(task: Task, prediction: Any) -> str:
    """One prediction for people: the label's name, several with a separator between them, or the number."""
    if task.multi_label:
        return joined(named_labels(task, prediction), task.labels)
    return f"{float(prediction):.6g}" if task.regression else task.labels[int(prediction)]


def in_glue_form(task: Task, split: str) -> bool:
    """Whether predictions of a split are written as GLUE wants them."""
    return bool(task.submission) and split in task.test


def check_form(path: Path, task: Task, split: str) -> None:
    """UsageError where predictions cannot be written as the suffix says, before they are made."""
    if not in_glue_form(task, split):
        writer_of(path)


def write_predictions(
    path: Path | str,
    task: Task,
    idx: Sequence[int] | NDArray[np.int64],
    predictions: NDArray[Any],
    probabilities: NDArray[Any] | None = None,
    *,
    split: str = "test",
    rows: Dataset | None = None,
) -> Path:
    """Write one row an example and give the path back.

    predictions: shape (n,), or (n, labels); probabilities: shape (n, num_labels) or None; split: decides the form, see the head of
    this file; rows: the split, whose texts and labels are written too. The file appears only when it is complete. Raises UsageError
    where it cannot be written, or its suffix names no kind of file.
    """
    path = Path(path)
    if in_glue_form(task, split):
        return write_submission(path, prediction_rows(task, idx, predictions))
    chances = np.empty((len(idx), 0)) if probabilities is None or task.regression else probabilities
    own = [] if rows is None else [name for name in ("text", "text_pair", "label") if name in rows.column_names]
    names = ["idx", *own, "prediction", *(f"probability_{name}" for name in task.labels[: chances.shape[1]])]
    with answer_file(path, names) as write:
        for row in np.argsort(idx, kind="stable").tolist():
            told = {} if rows is None else rows[row]
            given = [spoken(task, told[name]) if name == "label" else told[name] for name in own]
            answers = [spoken(task, predictions[row]), *(round(float(chance), 6) for chance in chances[row])]
            write([int(idx[row]), *given, *answers])
    return path


def write_submission(path: Path, rows: Sequence[tuple[int, str]]) -> Path:
    """GLUE's form."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("index", "prediction"), *rows])
        part.replace(path)
    except OSError as error:
        raise UsageError(f"predictions cannot be written: {error.strerror or error}", where=str(path)) from error
    return path
