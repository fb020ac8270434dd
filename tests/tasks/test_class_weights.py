"""Weights of classes: scikit-learn's, or by name."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from lorakit.errors import RecipeError
from lorakit.tasks.class_weights import class_weights

LABELS = np.array([0, 0, 0, 1, 2, 2, 0])
NAMES = ("a", "1", "true")


def test_balanced_is_scikit_learns():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert class_weights("balanced", NAMES, LABELS) == pytest.approx(expected)
    assert expected[LABELS].mean() == pytest.approx(1)


def test_a_class_without_rows_weighs_1():
    found = class_weights("balanced", (*NAMES, "d"), LABELS)
    assert found is not None
    assert found[3] == 1
    assert found[:3] == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=LABELS))


@pytest.mark.parametrize("setting", ["none", {}])
def test_without_weights_there_are_none(setting):
    assert class_weights(setting, NAMES, LABELS) is None


def test_names_are_matched_as_labels_are():
    assert class_weights({"1.0": 3, "True": 2}, NAMES, LABELS) == pytest.approx([1, 3, 2])


def test_names_that_are_no_labels_are_all_told():
    with pytest.raises(RecipeError) as caught:
        class_weights({"A": 2, "b": 1, "1": 1, "01": 2, "1.0": 4}, NAMES, LABELS)
    problems = caught.value.problems
    assert [problem.what for problem in problems] == [
        "there is no label 'A'", "there is no label 'b'", "there is no label '01'", "label '1' is given twice"
    ]  # fmt: skip
    assert problems[0].valid == "a, 1, true"
