"""DARE, then TIES: entries dropped at random in place of the smallest (Yu et al. 2024, arXiv 2311.03099, section 3.2).

    drop      m_i o t_i / density        m_i: 0 or 1, one with probability ``density``, drawn from the command's seed
    elect     for each entry the sign of their sum
    merge     the mean of w_i times those that have that sign

Weights are 1 where none are given.
Checked against PEFT's code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorakit.artifacts.combination import Combination, Setting, Update, combinations
from lorakit.artifacts.combinations.dare import dropped
from lorakit.artifacts.combinations.ties import elected_mean


def dare_ties(updates: Sequence[Update], setting: Setting) -> torch.Tensor:
    """Drop, elect, merge."""
    left = [dropped(update.dense, setting.density, setting.generator) for update in updates]
    return elected_mean(torch.stack(left), setting.weights)


combinations.register(
    Combination(
        "dare_ties",
        "entries dropped at random, signs elected, mean of those that agree",
        "Yu et al. 2024, arXiv 2311.03099",
        dare_ties,
        1.0,
        density=0.5,
    ),
)
