"""TIES: trim, elect sign, and merge (Yadav et al. 2023, arXiv 2306.01708, section 4).

    trim      of each t_i keep the largest entries in magnitude, a share of ``density`` of them
    elect     for each entry the sign of sum_i t_i: the one with the larger total mass
    merge     the mean of w_i t_i over the adapters whose entry has that sign

Weights are 1 where none are given.
Differs from the authors' code in: trimmed site by site, as PEFT does, theirs over all parameters at once; where entries tie at the cut,
the share is kept to, where theirs keeps one more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorakit.artifacts.combination import Combination, Setting, Update, combinations


def trimmed(update: torch.Tensor, density: float) -> torch.Tensor:
    """The share of entries that is largest in magnitude; zero elsewhere."""
    kept = int(density * update.numel())
    places = update.abs().flatten().topk(kept).indices
    mask = torch.zeros(update.numel(), dtype=torch.bool).index_fill_(0, places, True)
    return update * mask.reshape(update.shape)


def elected_mean(updates: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """The disjoint mean of the stacked updates (n x out x in)."""
    elected = torch.where(updates.sum(dim=0) >= 0, 1.0, -1.0)
    agree = updates.sign() == elected
    weighted = updates * torch.tensor(list(weights), dtype=updates.dtype)[:, None, None]
    return (weighted * agree).sum(dim=0) / agree.sum(dim=0).clamp_min(1)


def ties(updates: Sequence[Update], setting: Setting) -> torch.Tensor:
    """Trim, elect, merge."""
    return elected_mean(torch.stack([trimmed(u.dense, setting.density) for u in updates]), setting.weights)


combinations.register(
    Combination(
        "ties",
        "trimmed, signs elected, mean of those that agree",
        "Yadav et al. 2023, arXiv 2306.01708",
        ties,
        1.0,
        density=0.2,
    ),
)
