"""The metrics as functions of predictions and references, both of shape (n,), computed by scikit-learn and scipy.

Those of several labels a row take 0 and 1 of shape (n, labels); those of grades take class ids in the order of the grades.

Degenerate cases are defined rather than undefined: a score that would be 0/0 is 0.0 (F1, Matthews and kappa without any
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
    """The mean of each class's F1, over the classes that occur in predictions or references; of labels, over all of them."""
    return float(metrics.f1_score(references, predictions, average="macro", sample_weight=weights, zero_division=0.0))


def matthews(predictions: Array, references: Array, weights: Array | None = None) -> float:
    """Matthews' correlation coefficient of two or more classes."""
    if len(np.union1d(predictions, references)) < 2:  # scikit-learn warns about its own 0.0
        return 0.0
    return float(metrics.matthews_corrcoef(references, predictions, sample_weight=weights))


def quadratic_kappa(predictions: Array, references: Array, weights: Array | None = None) -> float:
    """Cohen's kappa of grades, an error weighted by the square of the grades it is off (Cohen 1968); 1 is perfect, 0 is chance."""
    if len(np.union1d(predictions, references)) < 2:  # scikit-learn divides 0 by 0
        return 0.0
    return float(metrics.cohen_kappa_score(references, predictions, weights="quadratic", sample_weight=weights))


def micro_f1(predictions: Array, references: Array, weights: Array | None = None) -> float:
    """F1 over all pairs of a row and a label: 2 TP / (2 TP + FP + FN)."""
    return float(metrics.f1_score(references, predictions, average="micro", sample_weight=weights, zero_division=0.0))


def subset_accuracy(predictions: Array, references: Array, weights: Array | None = None) -> float:
    """The share of rows whose labels are all right, and none too many."""
    return accuracy(predictions, references, weights)


def pearson(predictions: Array, references: Array) -> float:
    """Pearson's linear correlation."""
    return correlation(stats.pearsonr, predictions, references)


def spearman(predictions: Array, references: Array) -> float:
    """Spearman's rank correlation; ties share their mean rank."""
    return correlation(stats.spearmanr, predictions, references)


def mse(predictions: Array, references: Array) -> float:
    """The mean squared error."""
    return float(metrics.mean_squared_error(references, predictions))


def mae(predictions: Array, references: Array, weights: Array | None = None) -> float:
    """The mean absolute error: of grades, by how many a prediction is off."""
    return float(metrics.mean_absolute_error(references, predictions, sample_weight=weights))


def r2(predictions: Array, references: Array) -> float:
    """The share of the variance that is explained; 0 for always predicting the mean, less for worse."""
    return float(metrics.r2_score(references, predictions)) if len(references) > 1 else 0.0


def label_counts(predictions: Array, references: Array) -> NDArray[np.int64]:
    """Of each row and label what ``LABEL_COUNTS`` add up: (n, 3 labels + 2), true positives, false positives, false negatives of
    each label, whether the whole row is right, and 1."""
    ours, theirs = predictions.astype(bool), references.astype(bool)
    right = (ours == theirs).all(axis=1, keepdims=True)
    found = np.concatenate([ours & theirs, ours & ~theirs, ~ours & theirs, right, np.ones_like(right)], axis=1)
    return found.astype(np.int64)


def f1_of_counts(counts: NDArray[np.int64]) -> Array:
    """2 TP / (2 TP + FP + FN) of (TP, FP, FN), 0 where that is 0/0."""
    right, more, missed = counts
    return np.asarray(2 * right / np.maximum(2 * right + more + missed, 1))


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
    "quadratic_kappa": quadratic_kappa,
    "mae": mae,
}
LABEL_COUNTS: dict[str, Callable[[NDArray[np.int64]], float]] = {
    "micro_f1": lambda sums: float(f1_of_counts(sums[:-2].reshape(3, -1).sum(axis=1))),
    "macro_f1": lambda sums: float(f1_of_counts(sums[:-2].reshape(3, -1)).mean()),
    "subset_accuracy": lambda sums: float(sums[-2] / sums[-1]),
}
"""The metrics of several labels a row, from the sum of the rows' ``label_counts``."""
REGRESSION: dict[str, Callable[..., float]] = {
    "pearson": pearson,
    "spearman": spearman,
    "mse": mse,
    "mae": mae,
    "r2": r2,
}
