"""The least loss over a scale and offsets, against scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import log_loss

from lorakit.training.told_apart import least_loss, spread

DRAW = np.random.default_rng(0)
LABELS = DRAW.integers(0, 2, 60)
SIGNAL = DRAW.normal(size=60) + LABELS


def test_of_two_classes_it_is_logistic_regression_on_their_difference():
    logits = np.stack([0.01 * DRAW.normal(size=60), np.zeros(60)], axis=1)
    logits[:, 1] = logits[:, 0] + 0.003 * SIGNAL
    fitted = LogisticRegression(C=np.inf, tol=1e-8).fit(SIGNAL[:, None], LABELS)
    expected = log_loss(LABELS, fitted.predict_proba(SIGNAL[:, None]))
    assert expected < 0.65
    assert least_loss(logits, LABELS) == pytest.approx(expected, rel=1e-5)


def test_of_several_labels_a_row_each_has_its_offset_and_all_one_scale():
    """Two labels alike: the scale that is best for one is best for both."""
    fitted = LogisticRegression(C=np.inf, tol=1e-8).fit(SIGNAL[:, None], LABELS)
    expected = 2 * log_loss(LABELS, fitted.predict_proba(SIGNAL[:, None]))
    several = np.stack([SIGNAL, SIGNAL + 5], axis=1)
    assert least_loss(several, np.stack([LABELS, LABELS], axis=1), multi_label=True) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_of_numbers_it_is_the_residual_of_a_line_that_rises(sign: int):
    numbers = 3.0 + 0.5 * SIGNAL + DRAW.normal(size=60)
    line = LinearRegression().fit(SIGNAL[:, None], numbers)
    expected = np.mean((numbers - line.predict(SIGNAL[:, None])) ** 2) if sign > 0 else numbers.var()
    assert least_loss(sign * SIGNAL[:, None], numbers, regression=True) == pytest.approx(expected)


def test_logits_that_say_nothing_leave_the_entropy_of_the_labels():
    labels = np.array([0, 0, 0, 1, 2, 2])
    assert least_loss(np.ones((6, 3)), labels) == pytest.approx(entropy([3, 1, 2]), rel=1e-5)
    assert least_loss(-np.eye(3)[labels], labels) == pytest.approx(entropy([3, 1, 2]), rel=1e-5)


def test_scale_and_offsets_change_nothing():
    logits, labels = DRAW.normal(size=(60, 3)), DRAW.integers(0, 3, 60)
    moved = 0.02 * logits + np.array([1.0, -2.0, 0.3])
    assert least_loss(moved, labels) == pytest.approx(least_loss(logits, labels), rel=1e-5)


def test_the_spread_leaves_out_what_all_rows_and_all_outputs_have_in_common():
    logits = np.array([[1.0, 3.0], [2.0, 8.0]])
    assert spread(logits) == pytest.approx(1.0)  # half their differences: 1 and 3
    assert spread(logits + np.array([[5.0, 7.0]]) + np.array([[2.0], [9.0]])) == pytest.approx(1.0)
    assert spread(np.array([[1.0], [3.0]]), softmax=False) == pytest.approx(1.0)
