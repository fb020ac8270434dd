"""AdaLoRA: the rank units whose importance is large and uncertain stay, fewer and fewer of them (Zhang et al. 2023, arXiv 2303.10512).

    dW = s B diag(g) A                                    A: rank x in, g: rank, B: out x rank: `adapter.method=adalora`
    I = |p dL/dp| of every number p, after each step      I' = b1 I' + (1 - b1) I,   U' = b2 U' + (1 - b2) |I - I'|
    score of unit i = S(g_i) + mean S(A[i, :]) + mean S(B[:, i])                     with S = I' U'
    loss + orthogonality * mean of |A A^T - 1|_F and |B^T B - 1|_F over all sites

The best units of all sites stay, as many as the limit allows, which falls by a cubic from everything to the budget between
`search.warmup` and the start of `search.tail`. The budget is two thirds of everything where none is given: the authors begin at one and
a half times the rank that they end with. The gate of a closed unit has a gradient, so that its importance is that of the step
the optimiser would take; so a unit can come back, until the tail begins.
Works with every adapter that has rank units: the score sums, over the trained tensors that have a rank axis, the mean of the unit's
slice. The orthogonality term acts where a gate or a core lies between A and B; elsewhere the two carry the size of the update.
Differs from the authors' code in: all of a closed unit stands still, between ticks too (theirs, and PEFT's, zeroes the gate alone, when
it allocates, and lets the orthogonality term move the rest), and one that comes back begins at a gate of zero; ties are drawn, not closed
together; s = alpha / rank without PEFT's 1e-5 below the line; sites of different size compete for parameters, not for ranks. PEFT's
weight of orthogonality is 0.5; the authors' are 0.1 to 0.5 by task.
When to use it: where a uniform rank wastes parameters and you can spend rank above the budget in the first part of the training.
In three epochs of MRPC it wanted 16 times LoRA's learning rate and learnt nothing at 4 times, here and in PEFT alike: try high ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from lorakit.adapters.json_tensors import pack_all, unpack
from lorakit.adapters.options import Option
from lorakit.adapters.rank_units import axes_of
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import SearchContext, allocators
from lorakit.searching.cost_model import CostModel
from lorakit.searching.penalty import unlike_orthonormal, with_penalty
from lorakit.searching.unit_allocator import UnitAllocator, Units, without_phases
from lorakit.tasks.batching import SummedLoss

PENALTY = 12
"""Small operations for a factor's term, forward and backward."""


class AdaLoRA(UnitAllocator):
    """Keeps the units with the largest smoothed importance times its uncertainty."""

    name = "adalora"
    title = "AdaLoRA"
    summary = "rank units by the importance of their numbers times its uncertainty, fewer and fewer"
    source = "Zhang et al. 2023, arXiv 2303.10512"
    steady = True
    sees_tokens = False
    default_share = 2 / 3
    options: ClassVar = {
        "beta1": Option(0.85, "share of the importance so far in the new one", low=0.0, high=0.9999),
        "beta2": Option(0.85, "share of the uncertainty so far in the new one", low=0.0, high=0.9999),
        "orthogonality": Option(0.5, "weight of the term that keeps A's rows and B's columns orthonormal", low=0.0),
    }

    def __init__(self, context: SearchContext):
        super().__init__(context)
        self.ranked: dict[str, nn.Parameter] = {
            f"{site}.{name}": tensor
            for site, adapter in self.adapters.items()
            for name, tensor, _ in adapter.trained_tensors()
            if axes_of(adapter.delta, name)
        }
        self.importance = {name: torch.zeros_like(tensor) for name, tensor in self.ranked.items()}
        self.uncertainty = {name: torch.zeros_like(tensor) for name, tensor in self.ranked.items()}

    @classmethod
    def cautions(cls, search: SearchSection, total_steps: int) -> list[str]:
        """Where it has no phases."""
        return without_phases(search)

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """The orthogonality of two factors a site in every batch: a product, a difference and a norm, forward and backward."""
        penalised = cls.settings_from(search.options)["orthogonality"] > 0
        return cost_model.small(2 * PENALTY * penalised) * cost_model.steps * cost_model.accumulate + cls.choosing(
            ticks, cost_model
        )

    @torch.no_grad()
    def observe(self, step: int) -> None:
        """Take the importance of every number into the averages; of a site outside the function there is nothing to see."""
        if step >= min(self.end, self.context.ticks[-1] + 1):
            return
        seen = {name: tensor.grad for name, tensor in self.ranked.items() if tensor.grad is not None}
        if not seen:
            return
        products = torch._foreach_mul([self.ranked[name].detach() for name in seen], [*seen.values()])
        for product in products:
            product.abs_().nan_to_num_(nan=0.0, posinf=0.0)  # float16 overflowed, and the optimiser made no step
        smooth([self.importance[name] for name in seen], products, self.settings["beta1"])
        torch._foreach_sub_(products, [self.importance[name] for name in seen])
        torch._foreach_abs_(products)
        smooth([self.uncertainty[name] for name in seen], products, self.settings["beta2"])

    def unit_scores(self) -> Units:
        """Site -> the sum over its tensors of the mean score of each unit's slice."""
        scores: Units = {}
        for site, adapter in self.adapters.items():
            total = next(adapter.delta.parameters()).new_zeros(adapter.rank)
            for name, tensor, _ in adapter.trained_tensors():
                for axis in axes_of(adapter.delta, name):
                    key = f"{site}.{name}"
                    score = self.importance[key] * self.uncertainty[key]
                    total = total + score.movedim(axis, 0).reshape(tensor.shape[axis], -1).mean(dim=1)
            scores[site] = total
        return scores

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss and the orthogonality term."""
        return with_penalty(loss, self.settings["orthogonality"], lambda: unlike_orthonormal(self.adapters.values()))

    def state_dict(self) -> dict[str, Any]:
        """The averages too."""
        averages = {"importance": pack_all(self.importance), "uncertainty": pack_all(self.uncertainty)}
        return super().state_dict() | averages

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        for name in self.ranked:
            self.importance[name].copy_(unpack(state["importance"][name]))
            self.uncertainty[name].copy_(unpack(state["uncertainty"][name]))


def smooth(averages: list[torch.Tensor], values: list[torch.Tensor] | tuple[torch.Tensor, ...], beta: float) -> None:
    """Each average becomes ``beta`` of itself and the rest of its new value."""
    torch._foreach_mul_(averages, beta)
    torch._foreach_add_(averages, values, alpha=1 - beta)


allocators.register(AdaLoRA)
