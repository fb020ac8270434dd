"""Metrics from counts are scikit-learn's of the rows that were counted."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from lorakit.tasks.class_counts import CLASS_COUNTS, measure_of
from lorakit.tasks.formulas import CLASSIFICATION

PEERS = {
    "accuracy": sk.accuracy_score,
    "f1": lambda r, p: sk.f1_score(r, p, zero_division=0),
    "macro_f1": lambda r, p: sk.f1_score(r, p, average="macro", zero_division=0),
    "matthews": sk.matthews_corrcoef,
}


@pytest.mark.parametrize(
    ("metric", "classes"), [(metric, n) for metric in CLASS_COUNTS for n in (2, 3, 20) if n == 2 or metric != "f1"]
)
def test_a_draw_scores_what_its_rows_score(metric, classes):
    """To the last bit; among the draws are such of one pair alone, and of classes that only one side has."""
    rng = np.random.default_rng(classes)
    predictions, references = np.unravel_index(rng.permutation(classes**2)[:30], (classes, classes))
    measure = measure_of(metric, predictions, references)
    draws = [rng.multinomial(40, np.full(len(predictions), 1 / len(predictions))) for _ in range(20)]
    for times in (*draws, *np.eye(len(predictions), dtype=int)):
        rows = np.repeat(references, times), np.repeat(predictions, times)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a single class
            assert measure(times) == PEERS[metric](*rows)


def test_only_what_is_a_sum_of_pairs_is_here():
    assert measure_of("quadratic_kappa", np.array([0, 1]), np.array([1, 1])) is None
    assert set(CLASS_COUNTS) < set(CLASSIFICATION)
