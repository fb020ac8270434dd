"""LoRAHub: weights for a new task learnt without gradients, from a few examples (Huang et al. 2023, arXiv 2307.13269).

    t = (sum_i w_i B_i) (sum_j w_j A_j)        loss on the examples + 0.05 mean_i |w_i|,  w_i in [-1.5, 1.5]

A product of sums, so cross terms are part of the method; all adapters must have one rank at a site. The scale is in B.
Differs from the authors' code in: differential evolution (scipy) looks for the weights, where theirs has NGOpt from 0, and the paper
CMA-ES: all only ask for losses.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorakit.artifacts.combination import Combination, Factors, Setting, Update, combinations, sum_of


def lorahub(updates: Sequence[Update], setting: Setting) -> Factors:
    """Weighted sums of the factors."""
    pairs = [(weight, u.factors) for weight, u in zip(setting.weights, updates, strict=True) if u.factors is not None]
    return sum_of([weight * b for weight, (b, _) in pairs]), sum_of([weight * a for weight, (_, a) in pairs])


combinations.register(
    Combination(
        "lorahub",
        "weights learnt on a few examples without gradients",
        "Huang et al. 2023, arXiv 2307.13269",
        lorahub,
        rank="max",
        learns=True,
        factors=True,
    ),
)
