"""The metrics as functions of predictions and references, both of shape (n,), computed by scikit-learn and scipy.

Degenerate cases are defined rather than undefined: a score that would be 0/0 is 0.0 (F1 and Matthews without any
positive, a correlation with a constant or with fewer than two values), as GLUE's leaderboard treats constant
predictions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

Array = NDArray[np.generic]


def accuracy(predictions: Array, references: Array, weights: Array | None = None) -> float:
    """The share of predictions that are right."""
    return float(metrics.accuracy_score(references, predictions, sample_weight=weights))


def f1(predictions: Array, references: Array, weights: Array | None = None) -> float:
    """F1 of class 1 of two: 2 TP / (2 TP + FP + FN)."""
    return float(metrics.f1_score(references, predictions, sample_weight=weights, zero_division=0.0))


def macro_f1(predictions: Array, references: Array, weights: Array | None = None) -> float:
    """The mean of each class's F1, over the classes that occur in predictions or references."""
    return float(metrics.f1_score(references, predictions, average="macro", sample_weight=weights, zero_division=0.0))


def matthews(predictions: Array, references: Array, weights: Array | None = None) -> float:
    """Matthews' correlation coefficient of two or more classes."""
    if len(np.union1d(predictions, references)) < 2:  # scikit-learn warns about its own 0.0
        return 0.0
    return float(metrics.matthews_corrcoef(references, predictions, sample_weight=weights))


def pearson(predictions: Array, references: Array) -> float:
    """Pearson's linear correlation."""
    return correlation(stats.pearsonr, predictions, references)


def spearman(predictions: Array, references: Array) -> float:
    """Spearman's rank correlation; ties share their mean rank."""
    return correlation(stats.spearmanr, predictions, references)


def mse(predictions: Array, references: Array) -> float:
    """The mean squared error."""
    return float(metrics.mean_squared_error(references, predictions))


def correlation(measure: Callable[..., tuple[float, float]], predictions: Array, references: Array) -> float:
    """scipy's ``measure``, 0.0 where a side does not vary."""
    if len(predictions) < 2 or np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(np.nan_to_num(measure(predictions, references)[0], nan=0.0))


CLASSIFICATION: dict[str, Callable[..., float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
}
REGRESSION: dict[str, Callable[..., float]] = {"pearson": pearson, "spearman": spearman, "mse": mse}
