"""Metrics of classes from how often each pair of a prediction and a reference occurs, for the many draws of a bootstrap.

scikit-learn looks at its arguments anew in every call, for a millisecond; a thousand draws of the same pairs need that once. The
values are scikit-learn's to the last bit: sums of whole numbers, and one division.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]


def measure_of(
    metric: str, predictions: NDArray[np.int64], references: NDArray[np.int64]
) -> Callable[[NDArray[np.int64]], float] | None:
    """The metric as a function of how often each of the pairs occurs; None where ``CLASS_COUNTS`` lacks it.

    predictions, references: shape (pairs,), class ids; the function takes whole numbers of shape (pairs,), not all of them 0.

        >>> measure_of("accuracy", np.array([0, 1]), np.array([1, 1]))(np.array([3, 1]))
        0.25
    """
    if metric not in CLASS_COUNTS:
        return None
    formula, right = CLASS_COUNTS[metric], predictions == references
    classes = 1 + max(1, int(predictions.max()), int(references.max()))

    def measure(times: NDArray[np.int64]) -> float:
        sums = ((references, times * right), (predictions, times), (references, times))
        return float(formula(*(np.bincount(ids, weights, classes).astype(float) for ids, weights in sums)))

    return measure


def f1_of_classes(hits: Counts, said: Counts, true: Counts) -> Counts:
    """2 TP / (predicted + true) of each class, 0 where that is 0/0."""
    return np.divide(2 * hits, said + true, out=np.zeros_like(hits), where=said + true > 0)


def matthews(hits: Counts, said: Counts, true: Counts) -> float:
    """The covariance of predictions and references over the root of both variances (Gorodkin 2004), 0 where one does not vary."""
    total = true.sum()
    spread = (total**2 - said @ said) * (total**2 - true @ true)
    return float((hits.sum() * total - true @ said) / np.sqrt(spread)) if spread else 0.0


CLASS_COUNTS: dict[str, Callable[[Counts, Counts, Counts], float]] = {
    "accuracy": lambda hits, said, true: hits.sum() / true.sum(),
    "f1": lambda hits, said, true: f1_of_classes(hits, said, true)[1],
    "macro_f1": lambda hits, said, true: f1_of_classes(hits, said, true)[said + true > 0].mean(),
    "matthews": matthews,
}
"""Of how often each class was predicted rightly, was predicted, and was the reference: each of shape (classes,)."""
