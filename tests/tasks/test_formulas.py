"""Formulas against their definitions; test_metrics compares the modules with scikit-learn and scipy."""

import numpy as np
import pytest

from lorakit.tasks import formulas

PREDICTIONS, REFERENCES = np.array([1, 1, 1, 0, 0, 1, 0, 0]), np.array([1, 1, 0, 1, 0, 1, 0, 0])
TP, FP, FN, TN = 3, 1, 1, 3


def test_classification_by_hand():
    assert formulas.accuracy(PREDICTIONS, REFERENCES) == (TP + TN) / 8
    f1_positive, f1_negative = 2 * TP / (2 * TP + FP + FN), 2 * TN / (2 * TN + FP + FN)
    assert formulas.f1(PREDICTIONS, REFERENCES) == pytest.approx(f1_positive)
    assert formulas.macro_f1(PREDICTIONS, REFERENCES) == pytest.approx((f1_positive + f1_negative) / 2)
    product = (TP + FP) * (TP + FN) * (TN + FP) * (TN + FN)
    assert formulas.matthews(PREDICTIONS, REFERENCES) == pytest.approx((TP * TN - FP * FN) / product**0.5)


def test_regression_by_hand():
    x, y = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    dx, dy = x - x.mean(), y - y.mean()
    assert formulas.pearson(x, y) == pytest.approx(dx @ dy / np.sqrt((dx @ dx) * (dy @ dy)))
    assert formulas.spearman(x, y) == pytest.approx(1 - 6 * (0 + 1 + 1) / (3 * (9 - 1)))
    assert formulas.mse(x, y) == pytest.approx(5 / 3)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize(("x", "y"), [([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [3.0, 3.0]), ([1.0], [2.0])])
@pytest.mark.filterwarnings("error")
def test_a_correlation_with_a_constant_is_zero(name, x, y):
    assert formulas.REGRESSION[name](np.array(x), np.array(y)) == 0.0


@pytest.mark.parametrize("name", ["f1", "matthews"])
@pytest.mark.filterwarnings("error")
def test_a_score_without_positives_is_zero(name):
    assert formulas.CLASSIFICATION[name](np.zeros(4, int), np.zeros(4, int)) == 0.0
    assert formulas.CLASSIFICATION[name](np.zeros(4, int), np.array([0, 1, 0, 1])) == 0.0


@pytest.mark.parametrize("name", formulas.CLASSIFICATION)
def test_weights_count_rows(name):
    weights = np.array([1, 2, 3, 1, 1, 2, 5, 1])
    formula = formulas.CLASSIFICATION[name]
    whole = formula(np.repeat(PREDICTIONS, weights), np.repeat(REFERENCES, weights))
    assert formula(PREDICTIONS, REFERENCES, weights) == pytest.approx(whole)
