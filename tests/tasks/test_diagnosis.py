"""Where a classifier is wrong, against scikit-learn and numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import average_precision_score, classification_report, roc_auc_score

from lorakit.tasks.diagnosis import by_value, diagnose
from lorakit.tasks.task import Task

TWO = Task("two", "", ("text",), "label", ("no", "yes"), ("accuracy", "f1"))
THREE = Task("three", "", ("text",), "label", ("a", "b", "c"), ("accuracy", "macro_f1"))


def diagnosed(task: Task, chances: np.ndarray, references: np.ndarray):
    rows = len(references)
    split = Dataset.from_dict({"text": [f"text {row}" for row in range(rows)], "text_pair": ["more"] * rows})
    return diagnose(task, chances, references, np.arange(rows)[::-1] + 5, np.arange(rows) + 100, split)


@pytest.fixture
def three() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.dirichlet([1, 1, 1], size=40), rng.integers(3, size=40)


def test_classes_are_as_scikit_learn_reports_them(three):
    chances, references = three
    found = diagnosed(THREE, chances, references)
    decided = chances.argmax(axis=1)
    report = classification_report(references, decided, target_names=THREE.labels, output_dict=True)
    for row in found.classes:
        expected = report[row.label]
        assert (row.precision, row.recall, row.f1, row.support) == pytest.approx(
            (expected["precision"], expected["recall"], expected["f1-score"], expected["support"])
        )
    for label in range(3):
        for answer in range(3):
            assert found.confusion[label][answer] == sum((references == label) & (decided == answer))


def test_areas_of_several_classes_are_means_of_one_against_the_rest(three):
    chances, references = three
    found = diagnosed(THREE, chances, references)
    assert found.roc_auc == pytest.approx(roc_auc_score(references, chances, multi_class="ovr", average="macro"))
    assert found.average_precision == pytest.approx(
        average_precision_score(np.eye(3)[references], chances, average="macro")
    )


def test_two_classes_by_hand():
    """Rows 0 and 3 are wrong; of the 2 x 2 pairs of a yes and a no, yes is above no in one."""
    chances = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.7, 0.3]])
    found = diagnosed(TWO, chances, np.array([0, 0, 1, 1]))
    assert found.confusion == [[1, 1], [1, 1]]
    assert found.roc_auc == pytest.approx(2 / 4)
    assert found.average_precision == pytest.approx((1 / 2 + 2 / 3) / 2)
    told = [(error.row, error.label, error.predicted, error.probability, error.text) for error in found.errors]
    assert told == [(100, "no", "yes", 0.9, "text 0\tmore"), (103, "yes", "no", 0.7, "text 3\tmore")]
    # Lengths are 8, 7, 6, 5: rows 3 and 2 are the short third, 1 the middle one, 0 the long one.
    assert [(part.name, part.rows, part.errors) for part in found.by_length] == [
        ("short, 5 to 6 tokens", 2, 1),
        ("middle, 7 to 7 tokens", 1, 0),
        ("long, 8 to 8 tokens", 1, 1),
    ]


def test_a_class_without_rows_has_no_areas_and_zeros():
    found = diagnosed(TWO, np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    assert found.roc_auc is found.average_precision is None
    assert (found.classes[1].precision, found.classes[1].recall, found.classes[1].support) == (0, 0, 0)


def test_only_ten_errors_are_told_the_surest_first():
    chances = np.array([[1 - p, p] for p in np.linspace(0.55, 0.95, 12)])
    errors = diagnosed(TWO, chances, np.zeros(12, int)).errors
    assert [error.row for error in errors] == list(range(111, 101, -1))


def test_slices_by_a_value():
    slices = by_value(TWO, np.array([1, 0, 1]), np.array([1, 1, 1]), ["x", "y", "x"])
    assert [(part.name, part.rows, part.errors, part.scores["accuracy"]) for part in slices] == [
        ("x", 2, 0, 1.0),
        ("y", 1, 1, 0.0),
    ]
