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

    predictions, references: shape (n,), class ids, or floats for regression; (n, labels) of 0 and 1 for several labels a row. Raises
    RunError where predictions are not finite.
    """
    from lorakit.tasks.metric_modules import MODULES, SEVERAL

    predictions, references = checked(task, predictions, references)
    scores: dict[str, float] = {}
    for name in task.metrics:
        module = MODULES[name](config_name=SEVERAL) if task.multi_label else MODULES[name]()
        scores |= module.compute(predictions=predictions, references=references) or {}
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

    Of classes and labels, only how often each pair (prediction, reference) occurs matters, so those counts are drawn instead of
    rows: the same distribution, and the cost does not grow with n.
    """
    from lorakit.tasks.class_counts import measure_of
    from lorakit.tasks.formulas import CLASSIFICATION, LABEL_COUNTS, REGRESSION, label_counts

    predictions, references = checked(task, predictions, references)
    rng, total = np.random.default_rng(seed), len(predictions)
    values = np.empty(samples)
    if task.regression:
        for i in range(samples):
            rows = rng.integers(total, size=total)
            values[i] = REGRESSION[metric](predictions[rows], references[rows])
    else:
        cells, counts = np.unique(np.stack([predictions, references]), axis=1, return_counts=True)
        each = label_counts(*cells) if task.multi_label else None
        measure = None if task.multi_label else measure_of(metric, *cells)
        for i in range(samples):
            drawn = rng.multinomial(total, counts / total)
            if each is not None:  # scikit-learn takes twenty seconds for 3,000 rows of 28 labels
                values[i] = LABEL_COUNTS[metric](drawn @ each)
            elif measure is not None:
                values[i] = measure(drawn)
            else:
                seen = drawn > 0
                values[i] = CLASSIFICATION[metric](cells[0, seen], cells[1, seen], drawn[seen])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def checked(task: Task, predictions: NDArray[Any], references: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as arrays of one shape (n,), for several labels a row (n, labels), n at least 1, all finite."""
    predictions, references = np.asarray(predictions), np.asarray(references)
    axes, shape = (2, "(n, labels)") if task.multi_label else (1, "(n,)")
    if predictions.ndim != axes or predictions.shape != references.shape or not len(predictions):
        raise ValueError(
            f"predictions {predictions.shape} and references {references.shape} must both be {shape}, n > 0"
        )
    wrong = int(np.sum(~np.isfinite(predictions)))
    if wrong:
        raise RunError(
            f"{wrong} of {len(predictions)} predictions are not numbers: the training has diverged",
            hint="a lower training.lr",
        )
    return predictions, references
