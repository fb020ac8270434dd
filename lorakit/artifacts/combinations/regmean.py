"""RegMean: the linear layer whose outputs are nearest to those of all layers on their own inputs (Jin et al. 2023, arXiv 2212.09849).

    t^T = (sum_i w_i G_i)^-1 sum_i w_i G_i t_i^T        G_i = X_i^T X_i / tokens (in x in), off-diagonals times 0.9

X_i: the layer's inputs in model i on training rows of its own. t minimises sum_i w_i |X_i (t - t_i)^T|^2 / tokens_i but for the
shrinking of the off-diagonals, which makes the sum invertible.
Checked against the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorakit.artifacts.combination import Combination, Setting, Update, combinations, sum_of

OFF_DIAGONAL = 0.9


def shrunk(gram: torch.Tensor) -> torch.Tensor:
    """The Gram matrix with smaller off-diagonals."""
    return OFF_DIAGONAL * gram + (1 - OFF_DIAGONAL) * torch.diag(gram.diag())


def regmean(updates: Sequence[Update], setting: Setting) -> torch.Tensor:
    """The least-squares solution; an input that is never used gets no update."""
    pairs = zip(setting.weights, updates, strict=True)
    grams = [weight * shrunk(update.statistic) for weight, update in pairs if update.statistic is not None]
    targets = sum_of([gram @ update.dense.T for gram, update in zip(grams, updates, strict=True)])
    return (torch.linalg.pinv(sum_of(grams), hermitian=True) @ targets).T


combinations.register(
    Combination(
        "regmean",
        "least squares on the inputs of each task",
        "Jin et al. 2023, arXiv 2212.09849",
        regmean,
        needs="gram",
    ),
)
