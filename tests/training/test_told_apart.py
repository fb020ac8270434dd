"""The least loss over offsets, against scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import entropy
from sklearn.metrics import log_loss

from lorakit.training.told_apart import least_loss, spread

DRAW = np.random.default_rng(0)
LABELS = DRAW.integers(0, 2, 60)
SIGNAL = DRAW.normal(size=60) + LABELS
"""Of one row each."""


def best_offset(signal: np.ndarray) -> float:
    """Where as many rows are expected to have the label as have it: there the loss has no slope."""
    return float(brentq(lambda offset: (expit(signal + offset) - LABELS).sum(), -50, 50))


def test_of_two_classes_the_offset_makes_the_expected_number_right():
    logits = np.stack([DRAW.normal(size=60), np.zeros(60)], axis=1)
    logits[:, 1] = logits[:, 0] + SIGNAL
    expected = log_loss(LABELS, expit(SIGNAL + best_offset(SIGNAL)))
    assert expected < 0.65
    assert least_loss(logits, LABELS) == pytest.approx(expected, rel=1e-6)


def test_of_several_labels_a_row_each_has_its_offset():
    several = np.stack([SIGNAL, 3 * SIGNAL + 5], axis=1)
    expected = sum(log_loss(LABELS, expit(each + best_offset(each))) for each in several.T)
    assert least_loss(several, np.stack([LABELS, LABELS], axis=1), multi_label=True) == pytest.approx(
        expected, rel=1e-6
    )


def test_of_numbers_it_is_the_variance_of_what_is_left():
    numbers = 3.0 + 0.5 * SIGNAL
    assert least_loss(SIGNAL[:, None], numbers, regression=True) == pytest.approx(0.25 * SIGNAL.var())


def test_logits_that_say_nothing_leave_the_entropy_of_the_labels():
    labels = np.array([0, 0, 0, 1, 2, 2])
    assert least_loss(np.ones((6, 3)), labels) == pytest.approx(entropy([3, 1, 2]), rel=1e-6)
    assert least_loss(np.zeros((6, 4)), labels) == pytest.approx(
        entropy([3, 1, 2]), abs=1e-4
    )  # and a label that no row has


def test_offsets_change_nothing_and_scale_does():
    logits, labels = DRAW.normal(size=(60, 3)), DRAW.integers(0, 3, 60)
    least = least_loss(logits, labels)
    assert least_loss(logits + np.array([1.0, -2.0, 0.3]), labels) == pytest.approx(least, rel=1e-6)
    assert least_loss(3 * logits, labels) > least + 0.1


def test_the_spread_leaves_out_what_all_rows_and_all_outputs_have_in_common():
    logits = np.array([[1.0, 3.0], [2.0, 8.0]])
    assert spread(logits) == pytest.approx(1.0)  # half their differences: 1 and 3
    assert spread(logits + np.array([[5.0, 7.0]]) + np.array([[2.0], [9.0]])) == pytest.approx(1.0)
    assert spread(np.array([[1.0], [3.0]]), softmax=False) == pytest.approx(1.0)
