"""Where a classifier that gives a row any number of labels is wrong: by label, by length, and where it is surest. scikit-learn counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lorakit.tasks.diagnosis import MOST_ERRORS, ClassScores, Slice, by_length, text_of
from lorakit.tasks.task import Task, named_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset


@dataclass(frozen=True)
class LabelScores(ClassScores):
    """One label.

    Attributes:
        label: its name.
        precision: of the rows that got the label, the share that has it; 0 where none got it.
        recall: of the rows that have the label, the share that got it; 0 where none has it.
        f1: the harmonic mean of the two.
        support: rows that have the label.
        average_precision: the area below precision over recall; None where no row has the label.
        best_threshold: the probability from which on giving the label has the largest F1 on these very rows, so that it is a little
            too good there: ``lorakit predict --threshold`` takes it; None where no row has the label.
        best_f1: that F1.
    """

    average_precision: float | None
    best_threshold: float | None
    best_f1: float | None


@dataclass(frozen=True)
class LabelsError:
    """A row that got a label too many, or lacks one.

    Attributes:
        row: its number at the source.
        text: of the row; both texts of a pair with a tab between them.
        labels: those it has.
        predicted: those it got.
        label: of those that are wrong, the one that the classifier was surest of.
        probability: of that label.
    """

    row: int
    text: str
    labels: list[str]
    predicted: list[str]
    label: str
    probability: float


@dataclass(frozen=True)
class LabelDiagnosis:
    """Where a classifier that gives a row any number of labels is wrong.

    Attributes:
        labels: precision, recall, F1, support and average precision, in the order of the labels.
        roc_auc: the mean over the labels that some rows have and others have not; None where there is no such label.
        average_precision: the mean over the labels that some row has; None where there is none.
        errors: the ten rows with the label that the classifier was most wrongly sure of, or fewer.
        by_length: the rows in thirds by their tokens; a row is an error where any of its labels is wrong.
    """

    labels: list[LabelScores]
    roc_auc: float | None
    average_precision: float | None
    errors: list[LabelsError]
    by_length: list[Slice]


def diagnose_labels(
    task: Task,
    decided: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    references: NDArray[np.int64],
    lengths: NDArray[np.int64],
    idx: NDArray[np.int64],
    split: Dataset,
) -> LabelDiagnosis:
    """All of it: decided, probabilities and references (n, labels), tokens (n,), numbers at the source (n,); split: the rows' texts."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    has = references.astype(bool)
    support = has.sum(axis=0)
    columns = [(has[:, place], probabilities[:, place]) for place in range(task.num_labels)]
    precisions = [float(average_precision_score(*column)) if column[0].any() else None for column in columns]
    mixed = (support > 0) & (support < len(has))
    areas = [roc_auc_score(*columns[place]) for place in np.flatnonzero(mixed).tolist()]
    known = [precision for precision in precisions if precision is not None]
    return LabelDiagnosis(
        labels=label_scores(task, decided, references, precisions, [best_threshold(*column) for column in columns]),
        roc_auc=float(np.mean(areas)) if areas else None,
        average_precision=float(np.mean(known)) if known else None,
        errors=surest_errors(task, decided, probabilities, references, idx, split),
        by_length=by_length(task, decided, references, lengths),
    )


def count_labels(decided: NDArray[np.int64], references: NDArray[np.int64]) -> list[list[list[int]]]:
    """For each label a confusion matrix of two: rows without it and with it (down), rows that did not get it and did (across)."""
    from sklearn.metrics import multilabel_confusion_matrix

    counts: list[list[list[int]]] = multilabel_confusion_matrix(references, decided).tolist()
    return counts


def label_scores(
    task: Task,
    decided: NDArray[np.int64],
    references: NDArray[np.int64],
    precisions: Sequence[float | None],
    best: Sequence[tuple[float | None, float | None]],
) -> list[LabelScores]:
    """Each label by itself; best: what ``best_threshold`` says of it."""
    from sklearn.metrics import precision_recall_fscore_support

    each = precision_recall_fscore_support(references, decided, average=None, zero_division=0)
    return [
        LabelScores(name, float(precision), float(recall), float(f1), int(support), area, *there)
        for name, precision, recall, f1, support, area, there in zip(task.labels, *each, precisions, best, strict=True)
    ]


def best_threshold(has: NDArray[np.bool_], chances: NDArray[np.floating]) -> tuple[float | None, float | None]:
    """The threshold with the largest F1 for rows (n,) that have a label or not, and that F1; the highest of equals."""
    from sklearn.metrics import precision_recall_curve

    if not has.any():
        return None, None
    precision, recall, thresholds = precision_recall_curve(has, chances)
    f1 = (2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny))[:-1]
    place = len(f1) - 1 - int(f1[::-1].argmax())
    return float(thresholds[place]), float(f1[place])


def surest_errors(
    task: Task,
    decided: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    references: NDArray[np.int64],
    idx: NDArray[np.int64],
    split: Dataset,
) -> list[LabelsError]:
    """The rows with a label that is wrong, the surest first: of a label too many by its probability, of a missing one by 1 less it."""
    sure = np.where(decided != references, np.where(decided == 1, probabilities, 1 - probabilities), -1.0)
    worst = np.argsort(-sure.max(axis=1), kind="stable")[:MOST_ERRORS]
    errors = []
    for row in worst[sure[worst].max(axis=1) >= 0].tolist():
        place = int(sure[row].argmax())
        errors.append(
            LabelsError(
                row=int(idx[row]),
                text=text_of(split[row]),
                labels=named_labels(task, references[row]),
                predicted=named_labels(task, decided[row]),
                label=task.labels[place],
                probability=float(probabilities[row, place]),
            )
        )
    return errors
