"""Where a model of numbers is wrong, by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import mean_absolute_error, r2_score

from lorakit.tasks.number_diagnosis import diagnose_numbers
from lorakit.tasks.task import Task

TASK = Task("number", "", ("text",), "label", (), ("pearson", "mse"))


def test_the_largest_errors_come_first_with_their_texts():
    labels = np.linspace(0, 3, 13).astype(np.float32)
    off = np.array([0, 1, -3, 0.5, 0, 0, 2, -1.5, 0.25, -0.125, 0.3, 0.2, -4])
    predictions = (labels + off).astype(np.float32)
    split = Dataset.from_dict({"text": [f"text {row}" for row in range(13)]})
    found = diagnose_numbers(TASK, predictions, labels, np.arange(13), np.arange(13) + 100, split)
    assert [error.row for error in found.errors] == [112, 102, 106, 107, 101, 103, 110, 108, 111, 109]
    assert (found.errors[1].text, found.errors[1].label, found.errors[1].predicted) == ("text 2", 0.5, -2.5)
    assert found.mae == pytest.approx(mean_absolute_error(labels, predictions))
    assert found.bias == pytest.approx(np.mean(off), abs=1e-6)
    assert found.r2 == pytest.approx(r2_score(labels, predictions))
    assert [(part.rows, part.errors) for part in found.by_length] == [(5, None), (4, None), (4, None)]
    assert list(found.by_length[0].scores) == ["pearson", "mse"]
