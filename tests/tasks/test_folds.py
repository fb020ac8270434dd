import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from lorakit.errors import DataError
from lorakit.tasks.folds import fold_of


def held(labels, folds, seed=0):
    return [np.flatnonzero(fold_of(np.asarray(labels), folds, fold, seed)).tolist() for fold in range(1, folds + 1)]


def test_each_row_is_held_out_once():
    labels = np.array([0] * 20 + [1] * 10)
    found = held(labels, 5)
    assert sorted(row for fold in found for row in fold) == list(range(30))
    assert all(np.bincount(labels[fold]).tolist() == [4, 2] for fold in found)
    expected = StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels)
    assert found == [part.tolist() for _, part in expected]
    assert held(labels, 5, seed=1) != found


@pytest.mark.parametrize("labels", [np.linspace(0, 1, 9, dtype=np.float32), np.eye(9, 3, dtype=np.int8), [0, 1, 2] * 3])
def test_numbers_several_labels_and_rare_classes_are_drawn_too(labels):
    assert sorted(row for fold in held(labels, 4) for row in fold) == list(range(9))


def test_more_folds_than_rows_are_refused():
    with pytest.raises(DataError, match="4 rows cannot be 5 folds"):
        fold_of(np.zeros(4, np.int64), 5, 1, 0)
