"""Fisher merging: an average in which each weight counts by how sure each model is of it (Matena and Raffel 2022, arXiv 2111.09832).

    t = (sum_i w_i F_i o t_i) / (sum_i w_i F_i)        F_i: mean over training rows of (dL/dW')^2, entry by entry

With `labels: expected` that is the mean over the labels that the model itself gives, as likely as it finds them; with `own` L is the loss
of a row's own label. `normalise: l2` divides each model's F by its norm, so that a model whose gradients are larger does not
count for more. Both first ones are the authors'.
Where no adapter has any Fisher information the plain weighted mean stands.
Differs from the authors' code in: the norm is over the weights that are adapted, theirs over all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorakit.adapters.options import Option
from lorakit.artifacts.combination import Combination, Setting, Update, combinations, sum_of


def fisher(updates: Sequence[Update], setting: Setting) -> torch.Tensor:
    """The precision-weighted mean."""
    pairs = list(zip(setting.weights, updates, strict=True))
    information = [weight * update.statistic for weight, update in pairs if update.statistic is not None]
    total = sum_of(information)
    mean = sum_of([weight * update.dense for weight, update in pairs]) / sum(setting.weights)
    weighted = sum_of([f * update.dense for f, update in zip(information, updates, strict=True)])
    return torch.where(total > 0, weighted / total.where(total > 0, 1.0), mean)


combinations.register(
    Combination(
        "fisher",
        "mean weighted by the squared gradients of each task",
        "Matena and Raffel 2022, arXiv 2111.09832",
        fisher,
        needs="fisher",
        options={
            "labels": Option(
                "expected", "whose gradients: the model's own labels, or the rows'", choices=("expected", "own")
            ),
            "normalise": Option("l2", "what each model's information is divided by", choices=("l2", "none")),
        },
    ),
)
