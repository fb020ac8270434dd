"""Where a classifier is wrong: by class, by pair of classes, by length, by a column, and its most confident errors. scikit-learn counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lorakit.tasks.metrics import score
from lorakit.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

MOST_ERRORS = 10
THIRDS = ("short", "middle", "long")


@dataclass(frozen=True)
class ClassScores:
    """One class.

    Attributes:
        label: its name.
        precision: of the rows that got the label, the share that has it; 0 where none got it.
        recall: of the rows that have the label, the share that got it; 0 where none has it.
        f1: the harmonic mean of the two.
        support: rows that have the label.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ConfidentError:
    """A row whose label is wrong.

    Attributes:
        row: its number at the source.
        text: of the row; both texts of a pair with a tab between them.
        label: the one it has.
        predicted: the one it got.
        probability: of that one.
    """

    row: int
    text: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Slice:
    """Some of the rows.

    Attributes:
        name: what they have in common.
        rows: how many they are.
        errors: how many of them are wrong, in any label where a row has several; None for a number to predict.
        scores: the task's metrics on them.
    """

    name: str
    rows: int
    errors: int | None
    scores: dict[str, float]


@dataclass(frozen=True)
class Diagnosis:
    """Where a classifier is wrong.

    Attributes:
        classes: precision, recall, F1 and support, in the order of the labels.
        confusion: rows by the label they have (down) and the label they got (across).
        roc_auc: of two classes that of the second, of more the mean over classes, each against the rest; None where a class has
            no row.
        average_precision: the same of the area below precision over recall.
        errors: the ten that the classifier was most sure of, or fewer.
        by_length: the rows in thirds by their tokens.
    """

    classes: list[ClassScores]
    confusion: list[list[int]]
    roc_auc: float | None
    average_precision: float | None
    errors: list[ConfidentError]
    by_length: list[Slice]


def diagnose(
    task: Task,
    probabilities: NDArray[np.floating],
    references: NDArray[np.int64],
    lengths: NDArray[np.int64],
    idx: NDArray[np.int64],
    split: Dataset,
) -> Diagnosis:
    """All of it: probabilities (n, labels), class ids (n,), tokens (n,), numbers at the source (n,); split: the rows' texts."""
    decided = probabilities.argmax(axis=1)
    counts = count_pairs(task, decided, references)
    area, precision = ranking_scores(probabilities, references)
    wrong = np.flatnonzero(decided != references)
    sure = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:MOST_ERRORS]
    errors = [
        ConfidentError(
            row=int(idx[row]),
            text=text_of(split[row]),
            label=task.labels[int(references[row])],
            predicted=task.labels[int(decided[row])],
            probability=float(probabilities[row].max()),
        )
        for row in sure.tolist()
    ]
    return Diagnosis(
        classes=class_scores(task.labels, counts),
        confusion=counts,
        roc_auc=area,
        average_precision=precision,
        errors=errors,
        by_length=by_length(task, decided, references, lengths),
    )


def count_pairs(task: Task, decided: NDArray[np.int64], references: NDArray[np.int64]) -> list[list[int]]:
    """The confusion matrix: rows by the label they have (down) and the label they got (across)."""
    from sklearn.metrics import confusion_matrix

    counts: list[list[int]] = confusion_matrix(references, decided, labels=list(range(task.num_labels))).tolist()
    return counts


def class_scores(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> list[ClassScores]:
    """What a confusion matrix says of each class."""
    from sklearn.metrics import precision_recall_fscore_support

    references, decided = np.indices((len(labels), len(labels))).reshape(2, -1)
    each = precision_recall_fscore_support(
        references,
        decided,
        labels=list(range(len(labels))),
        average=None,
        sample_weight=np.asarray(counts).reshape(-1),
        zero_division=0,
    )
    return [
        ClassScores(name, float(precision), float(recall), float(f1), int(support))
        for name, precision, recall, f1, support in zip(labels, *each, strict=True)
    ]


def text_of(row: Mapping[str, Any]) -> str:
    """A row's text, or both with a tab between them."""
    return "\t".join(row[name] for name in ("text", "text_pair") if name in row)


def ranking_scores(
    probabilities: NDArray[np.floating], references: NDArray[np.int64]
) -> tuple[float | None, float | None]:
    """ROC-AUC and average precision: of the second of two classes, or the means over all classes, each against the rest."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    number = probabilities.shape[1]
    if len(np.unique(references)) < number:
        return None, None
    columns = [1] if number == 2 else range(number)
    pairs = [(references == column, probabilities[:, column]) for column in columns]
    areas = [roc_auc_score(*pair) for pair in pairs]
    return float(np.mean(areas)), float(np.mean([average_precision_score(*pair) for pair in pairs]))


def by_length(
    task: Task, decided: NDArray[np.generic], references: NDArray[np.generic], lengths: NDArray[np.int64]
) -> list[Slice]:
    """Thirds of the rows by their tokens; rows of equal length may be in two of them. Empty below three rows."""
    if len(lengths) < len(THIRDS):
        return []
    order = np.argsort(lengths, kind="stable")
    return [
        slice_of(task, f"{name}, {lengths[rows].min():,} to {lengths[rows].max():,} tokens", decided, references, rows)
        for name, rows in zip(THIRDS, np.array_split(order, len(THIRDS)), strict=True)
    ]


def by_value(
    task: Task, decided: NDArray[np.generic], references: NDArray[np.generic], values: Sequence[str]
) -> list[Slice]:
    """The rows by a value that each has, most rows first."""
    places: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        places.setdefault(value, []).append(row)
    ordered = sorted(places.items(), key=lambda item: (-len(item[1]), item[0]))
    return [slice_of(task, value, decided, references, np.array(rows)) for value, rows in ordered]


def slice_of(
    task: Task,
    name: str,
    decided: NDArray[np.generic],
    references: NDArray[np.generic],
    rows: NDArray[np.int64],
) -> Slice:
    """The scores of ``rows`` alone."""
    ours, theirs = decided[rows], references[rows]
    wrong = ours != theirs
    errors = None if task.regression else int(np.sum(wrong.any(axis=1) if task.multi_label else wrong))
    return Slice(name, len(rows), errors, score(task, ours, theirs))
