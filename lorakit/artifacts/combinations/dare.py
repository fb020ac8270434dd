"""DARE: drop and rescale (Yu et al. 2024, arXiv 2311.03099).

    t = sum_i w_i m_i o t_i / density        m_i: 0 or 1, one with probability ``density``, drawn from the command's seed

The mean over the draws is the weighted sum; w_i = 1/n where none are given.
Checked against PEFT's code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorakit.artifacts.combination import Combination, Setting, Update, combinations, sum_of


def dropped(update: torch.Tensor, density: float, generator: torch.Generator) -> torch.Tensor:
    """The update with entries dropped, the others rescaled."""
    return update * torch.bernoulli(torch.full_like(update, density), generator=generator) / density


def dare(updates: Sequence[Update], setting: Setting) -> torch.Tensor:
    """The weighted sum of what is left."""
    left = [dropped(update.dense, setting.density, setting.generator) for update in updates]
    return sum_of([weight * update for weight, update in zip(setting.weights, left, strict=True)])


combinations.register(
    Combination(
        "dare", "entries dropped at random, the rest rescaled", "Yu et al. 2024, arXiv 2311.03099", dare, density=0.5
    ),
)
