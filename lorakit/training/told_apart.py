"""How well logits tell rows apart by their labels, whatever the logits' scale and however common each label is.

    least loss    min over a >= 0 and b of the loss of a z + b       z: logits (n, outputs); a: one scale; b: an offset per output

A training's first steps change a and b more than anything else: how sure the model is, and which label it gives to all rows alike. What is
left of a fall of the loss without these two has been learnt of the texts. Convex in a and b (Guo et al. 2017, On Calibration of Modern
Neural Networks, section 4.2, has a alone), so that there is one least loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 1e3
"""a at most, for logits of deviation 1: rows that are told apart for certain have no best one."""


def least_loss(
    logits: NDArray[np.floating], labels: NDArray[Any], *, regression: bool = False, multi_label: bool = False
) -> float:
    """The least loss a row, in nats, or the least squared error of numbers.

    logits: (n, outputs); labels: (n,) class ids, (n, outputs) of 0 and 1 where rows have several, or (n,) numbers.

    Example:
        >>> least_loss(np.array([[0.1, 0.0], [0.0, 0.1]]), np.array([1, 1])) < 1e-3   # one label for all
        True
    """
    scores = logits.astype(np.float64)
    if regression:
        return least_squares(scores[:, 0], labels.astype(np.float64))
    from scipy.optimize import minimize
    from scipy.special import expit, log_softmax, softmax

    outputs = scores.shape[1]
    scores = scores / (scores.std(axis=0).max() or 1.0)
    wanted = labels.astype(np.float64) if multi_label else np.eye(outputs)[labels]

    def loss(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = at[0] * scores + at[1:]
        value = (np.logaddexp(0, z) - wanted * z).sum() if multi_label else -(wanted * log_softmax(z, axis=1)).sum()
        push = (expit(z) if multi_label else softmax(z, axis=1)) - wanted
        return value / len(z), np.concatenate([[(push * scores).sum()], push.sum(axis=0)]) / len(z)

    bounds = [(0.0, LARGEST)] + [(-LARGEST, LARGEST)] * outputs
    return float(minimize(loss, np.zeros(1 + outputs), jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-10).fun)


def least_squares(scores: NDArray[np.float64], labels: NDArray[np.float64]) -> float:
    """The mean squared error of a z + b, a not below 0: the labels' variance where z goes against them."""
    varies = scores.std() * labels.std()
    correlation = np.cov(scores, labels, bias=True)[0, 1] / varies if varies > 0 else 0.0
    return float(labels.var() * (1 - max(correlation, 0.0) ** 2))


def spread(logits: NDArray[np.floating], *, softmax: bool = True) -> float:
    """How far logits (n, outputs) differ from row to row: the root of their mean variance over the rows.

    softmax: a common move of all outputs, which changes no probability of exclusive classes, is left out.
    """
    apart = logits - logits.mean(axis=1, keepdims=True) if softmax else logits
    return float(np.sqrt(apart.var(axis=0).mean()))
