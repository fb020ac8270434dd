"""Where a classifier of several labels a row is wrong, against scikit-learn and numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import average_precision_score, classification_report, f1_score, roc_auc_score

from lorakit.tasks.label_diagnosis import LabelDiagnosis, diagnose_labels
from lorakit.tasks.task import MULTI_LABEL_METRICS, Task

TASK = Task("several", "", ("text",), "label", ("a", "b", "c"), MULTI_LABEL_METRICS, multi_label=True)


def diagnosed(chances: np.ndarray, references: np.ndarray) -> LabelDiagnosis:
    rows = len(references)
    split = Dataset.from_dict({"text": [f"text {row}" for row in range(rows)]})
    decided = (chances >= 0.5).astype(int)
    return diagnose_labels(TASK, decided, chances, references, np.arange(rows)[::-1] + 5, np.arange(rows) + 100, split)


def test_labels_are_as_scikit_learn_reports_them():
    rng = np.random.default_rng(0)
    chances, references = rng.random((40, 3)), rng.integers(2, size=(40, 3))
    found = diagnosed(chances, references)
    report = classification_report(
        references, chances >= 0.5, target_names=TASK.labels, output_dict=True, zero_division=0
    )
    for place, row in enumerate(found.labels):
        expected = report[row.label]
        assert (row.precision, row.recall, row.f1, row.support) == pytest.approx(
            (expected["precision"], expected["recall"], expected["f1-score"], expected["support"])
        )
        assert row.average_precision == pytest.approx(average_precision_score(references[:, place], chances[:, place]))
    assert found.average_precision == pytest.approx(average_precision_score(references, chances, average="macro"))
    assert found.roc_auc == pytest.approx(roc_auc_score(references, chances, average="macro"))


def test_the_best_threshold_is_the_one_of_all_with_the_largest_f1():
    rng = np.random.default_rng(1)
    chances, references = rng.random((60, 3)).round(2), rng.integers(2, size=(60, 3))
    for place, row in enumerate(diagnosed(chances, references).labels):
        scores = {t: f1_score(references[:, place], chances[:, place] >= t) for t in np.unique(chances[:, place])}
        assert row.best_f1 == pytest.approx(max(scores.values()))
        assert row.best_threshold == max(t for t, score in scores.items() if score > max(scores.values()) - 1e-12)


def test_errors_are_the_rows_with_the_surest_wrong_label():
    chances = np.array([[0.9, 0.2, 0.1], [0.9, 0.6, 0.3], [0.05, 0.7, 0.1], [0.4, 0.4, 0.4]])
    references = np.array([[1, 0, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0]])
    found = diagnosed(chances, references)
    told = [(error.row, error.labels, error.predicted, error.label, error.probability) for error in found.errors]
    # Row 102 lacks a, of which the classifier was sure by 0.95; row 101 lacks c, by 0.7, and has b too many, by 0.6.
    assert told == [(102, ["a", "b"], ["b"], "a", 0.05), (101, ["a", "c"], ["a", "b"], "c", 0.3)]
    assert [part.errors for part in found.by_length] == [1, 1, 0]  # lengths 5 and 6, 7, 8: rows 3 and 2, 1, 0


def test_labels_without_rows_have_zeros_and_no_area():
    found = diagnosed(np.array([[0.9, 0.1, 0.1], [0.9, 0.2, 0.8]]), np.array([[1, 0, 0], [1, 0, 1]]))
    assert [row.average_precision for row in found.labels] == [1.0, None, 1.0]
    assert (found.labels[1].best_threshold, found.labels[2].best_threshold) == (None, 0.8)
    assert (found.labels[1].precision, found.labels[1].recall, found.labels[1].f1) == (0, 0, 0)
    assert (found.roc_auc, found.average_precision) == (1.0, 1.0)  # the area of c alone; a is there in all rows
