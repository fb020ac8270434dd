"""A temperature has the least log-loss, and errors of calibration are what their formulas say."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from lorakit.tasks.calibration import (
    as_calibration,
    calibration_error,
    calibration_of,
    fit_temperature,
    probabilities,
    reliability,
)
from lorakit.tasks.task import Task

TASK = Task("t", "t", ("text",), "label", ("a", "b", "c"), ("accuracy",))
NUMBER = Task("t", "t", ("text",), "label", (), ("pearson",))


def drawn(rows: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels that follow softmax(z), and the logits of a model that is ``sharpness`` times as sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, 3)) * 2
    labels = np.array([rng.choice(3, p=chances) for chances in softmax(logits, axis=1)])
    return (logits * sharpness).astype(np.float32), labels


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_is_where_the_log_loss_has_no_slope(sharpness: float):
    """d/d(1/T) of the mean of -log p_y is the mean of E_p[z] - z_y; and it finds what the labels were drawn by."""
    logits, labels = drawn(4000, sharpness)
    found = fit_temperature(logits, labels)
    chances = softmax(logits.astype(float) / found, axis=1)
    slope = ((chances * logits).sum(axis=1) - logits[np.arange(len(labels)), labels]).mean()
    assert abs(slope) < 1e-4
    assert found == pytest.approx(sharpness, rel=0.06)


def test_scores_of_probabilities_are_scikit_learns_and_the_formulas():
    logits, labels = drawn(500, 2.0)
    chances = probabilities(logits)
    found = reliability(chances, labels)
    assert found.log_loss == pytest.approx(log_loss(labels, softmax(logits.astype(float), axis=1)), rel=1e-5)
    error = 0.0
    for place in range(15):
        inside = (chances.max(1) > place / 15) & (chances.max(1) <= (place + 1) / 15)
        if inside.any():
            right = (chances[inside].argmax(1) == labels[inside]).mean()
            error += inside.mean() * abs(right - chances[inside].max(1).mean())
    assert found.ece == pytest.approx(error, abs=1e-6)


def test_sure_and_right_has_no_error_and_sure_and_wrong_all_of_it():
    sure = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    assert calibration_error(sure, np.array([0, 1, 2, 0])) == 0
    assert calibration_error(sure, np.array([1, 2, 0, 1])) == 1
    assert np.isfinite(reliability(sure, np.array([1, 2, 0, 1])).log_loss)


def test_a_model_that_is_too_sure_is_mended_and_answers_the_same():
    logits, labels = drawn(1000, 4.0)
    found = calibration_of(TASK, logits, labels)
    assert found is not None
    assert found.rows == 1000
    assert found.temperature > 3
    assert found.after.log_loss < found.before.log_loss
    assert found.after.ece < found.before.ece / 2
    assert found.after == reliability(probabilities(logits, found.temperature), labels)
    assert found.before == reliability(probabilities(logits), labels)
    assert (probabilities(logits, found.temperature).argmax(1) == logits.argmax(1)).all()
    assert as_calibration(asdict(found)) == found


def test_where_nothing_can_be_fitted_nothing_is():
    logits, labels = drawn(300, 2.0)
    noise = np.random.default_rng(1).integers(0, 3, 300)
    cases = {
        "99 rows are too few": (logits[:99], labels[:99]),
        "all rows are right": (logits, logits.argmax(1)),
        "how sure the model is says nothing": (np.tile(logits[:1], (300, 1)) * 50, np.arange(300) % 3),
        "no temperature helps": (-10 * np.eye(3, dtype=np.float32)[noise], noise),
    }
    for what, (scores, right) in cases.items():
        found = calibration_of(TASK, scores, right)
        assert found is not None
        assert found.temperature == 1
        assert found.after == found.before
        assert what in found.note


def test_numbers_and_sets_of_labels_have_no_temperature():
    logits, labels = drawn(200, 2.0)
    assert calibration_of(NUMBER, logits[:, :1], labels.astype(float)) is None
    assert calibration_of(TASK, logits, np.eye(3, dtype=int)[labels]) is None


def test_a_temperature_of_1_changes_no_bit():
    logits, _ = drawn(50, 1.0)
    assert (probabilities(logits, 1.0) == softmax(logits, axis=1)).all()


@pytest.mark.filterwarnings("error")
def test_what_is_no_number_has_no_temperature_and_no_error():
    logits, labels = drawn(200, 1.0)
    for broken in (np.nan, np.inf):
        logits[3, 1] = broken
        assert calibration_of(TASK, logits, labels) is None
    chances = np.full((2, 3), np.nan, np.float32)
    assert np.isnan([calibration_error(chances, labels[:2]), reliability(chances, labels[:2]).log_loss]).all()
