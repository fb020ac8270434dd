"""How well logits tell rows apart by their labels, however common each label is.

    least loss    min over b of the loss of z + b        z: logits (n, outputs); b: an offset per output

What adapters change first is which label all rows are given alike: on classes of uneven size the loss falls fast by that, and nothing has
been learnt of the texts. With the best offsets before and after, such a fall is none. Convex in b, so that there is one least loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 1e3
"""An offset at most: of a label that no row has there is no best one."""


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
        return float((labels - scores[:, 0]).var())
    from scipy.optimize import minimize
    from scipy.special import expit, log_softmax, softmax

    outputs = scores.shape[1]
    wanted = labels.astype(np.float64) if multi_label else np.eye(outputs)[labels]

    def loss(offsets: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = scores + offsets
        value = (np.logaddexp(0, z) - wanted * z).sum() if multi_label else -(wanted * log_softmax(z, axis=1)).sum()
        push = (expit(z) if multi_label else softmax(z, axis=1)) - wanted
        return value / len(z), push.mean(axis=0)

    bounds = [(-LARGEST, LARGEST)] * outputs
    return float(minimize(loss, np.zeros(outputs), jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-10).fun)


def spread(logits: NDArray[np.floating], *, softmax: bool = True) -> float:
    """How far logits (n, outputs) differ from row to row: the root of their mean variance over the rows.

    softmax: a common move of all outputs, which changes no probability of exclusive classes, is left out.
    """
    apart = logits - logits.mean(axis=1, keepdims=True) if softmax else logits
    return float(np.sqrt(apart.var(axis=0).mean()))
