"""Scores of a task and how sure they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import RunError
from lorakit.tasks.task import Task


def main_metric(task: Task) -> str:
    """The name of the metric that counts."""
    return task.metrics[0]


def score(task: Task, predictions: NDArray[Any], references: NDArray[Any]) -> dict[str, float]:
    """All of the task's metrics, the main one first.

    predictions, references: shape (n,), class ids, or floats for regression. Raises RunError where predictions are not
    finite.
    """
    from lorakit.tasks.metric_modules import MODULES

    predictions, references = checked(predictions, references)
    scores: dict[str, float] = {}
    for name in task.metrics:
        scores |= MODULES[name]().compute(predictions=predictions, references=references) or {}
    return scores


def interval(
    task: Task,
    metric: str,
    predictions: NDArray[Any],
    references: NDArray[Any],
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of ``metric``: rows are drawn again with replacement ``samples`` times (Efron, 1979).

    Of classes, only how often each pair (prediction, reference) occurs matters, so those counts are drawn instead of
    rows: the same distribution, and the cost does not grow with n.
    """
    from lorakit.tasks.formulas import CLASSIFICATION, REGRESSION

    predictions, references = checked(predictions, references)
    rng, total = np.random.default_rng(seed), len(predictions)
    values = np.empty(samples)
    if task.regression:
        for i in range(samples):
            rows = rng.integers(total, size=total)
            values[i] = REGRESSION[metric](predictions[rows], references[rows])
    else:
        cells, counts = np.unique(np.stack([predictions, references]), axis=1, return_counts=True)
        for i, drawn in enumerate(rng.multinomial(total, counts / total, size=samples)):
            seen = drawn > 0
            values[i] = CLASSIFICATION[metric](cells[0, seen], cells[1, seen], drawn[seen])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def checked(predictions: NDArray[Any], references: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as arrays of one shape (n,), n at least 1, all finite."""
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.ndim != 1 or predictions.shape != references.shape or not len(predictions):
        raise ValueError(f"predictions {predictions.shape} and references {references.shape} must both be (n,), n > 0")
    wrong = int(np.sum(~np.isfinite(predictions)))
    if wrong:
        raise RunError(
            f"{wrong} of {len(predictions)} predictions are not numbers: the training has diverged",
            hint="a lower training.lr",
        )
    return predictions, references
