"""Dynamic DoRA: the rank units that carry most of their site's update stay (Mao et al. 2024, arXiv 2405.17357).

Not weight-decomposed DoRA, which bears the same name and is the adapter method `dora`.

    dW = sum of c_i b_i a_i over the rank units         b_i: a column of B, a_i: a row of A, c: rank: `adapter.method=dynamic_dora`
    score of unit i = average over steps of |c_i b_i a_i|_F / |dW|_F, in which a step before counts `smooth` (0.9) as much
    loss + variance * mean of Var(A[i, :]) and Var(B[:, i]) over all units and sites, until the budget is reached
    limit = everything - (everything - budget) t^3      t: from 0 to 1 between `search.warmup` and the start of `search.tail`

The best units of all sites stay, as many as the limit allows, which falls slowly first and fast last. In the paper that
is from 15 % to 50 % of the steps (`search.warmup: 0.15`, `search.tail: 0.5`), from one and a half times the budget's rank: two thirds of
everything are the budget where none is given.
Works where the update is a sum over the rank units (`factors`), with or without c; a start that is subtracted (PiSSA) is subtracted
unit by unit. A core mixes its units, and is refused.
Differs from the authors' code in: all of a closed unit stands still; ties are drawn; sites of different size compete for parameters,
and on the way down at most one unit less is on, as part of a unit does not count; everything closes at ticks (`search.every`).
When to use it: as AdaLoRA; it needs no gradients to score, and favours sites whose update lies in few directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.json_tensors import pack_all, unpack
from lorakit.adapters.options import Option
from lorakit.adapters.rank_units import axes_of
from lorakit.adapters.switching import ON
from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import SearchContext, allocators
from lorakit.searching.cost_model import CostModel
from lorakit.searching.penalty import outer_factors, with_penalty
from lorakit.searching.unit_allocator import UnitAllocator, Units, without_phases
from lorakit.tasks.batching import SummedLoss

VARIANCE, SHARES = 8, 16
"""Small operations for a factor's term, forward and backward, and for the shares of a site's units."""


class DynamicDoRA(UnitAllocator):
    """Keeps the units with the largest average share of their site's update."""

    name = "dynamic_dora"
    title = "Dynamic DoRA"
    summary = "rank units by their share of the norm of their site's update, fewer and fewer"
    source = "Mao et al. 2024, arXiv 2405.17357"
    default_share = 2 / 3
    options: ClassVar = {
        "smooth": Option(0.9, "share of the score so far in the new one", low=0.0, high=0.9999),
        "variance": Option(0.1, "weight of the mean variance of A's rows and B's columns in the loss", low=0.0),
    }

    def __init__(self, context: SearchContext):
        super().__init__(context)
        self.prunes = True
        for adapter in self.adapters.values():
            if not is_sum_of_units(adapter):
                raise RecipeError(
                    f"allocator '{context.search.method}' compares each rank unit's part of dW, and delta "
                    f"'{adapter.spec.delta}' is no sum of such parts",
                    key="search.method",
                    valid="adalora or sora with this adapter",
                    hint="an adapter method such as trilora, lora, dora or vera",
                )
        self.shares: Units = {name: torch.zeros_like(shares(adapter)) for name, adapter in self.adapters.items()}

    @classmethod
    def cautions(cls, search: SearchSection, total_steps: int) -> list[str]:
        """Where it has no phases."""
        return without_phases(search)

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """The variance of two factors a site in every batch, forward and backward, and every site's shares after each step."""
        penalised = cls.settings_from(search.options)["variance"] > 0
        pruning = min(cost_model.steps, ticks[-1])
        batches = cost_model.small(2 * VARIANCE * penalised) * pruning * cost_model.accumulate
        return batches + cost_model.small(SHARES) * pruning + cls.choosing(ticks, cost_model)

    @torch.no_grad()
    def observe(self, step: int) -> None:
        """Take every unit's share into its average; a site outside the function keeps what it had."""
        if step >= min(self.end, self.context.ticks[-1] + 1):
            return
        for name, adapter in self.adapters.items():
            if adapter.state == ON:
                self.shares[name].lerp_(shares(adapter), 1 - self.settings["smooth"])

    def share_left(self, step: int, final: float) -> float:
        """1 - (1 - final) t^3: fewer slowly first and fast last, the other way round than AdaLoRA's."""
        if step <= self.begin:
            return 1.0
        t = min((step - self.begin) / (self.end - self.begin), 1.0) if step < self.end else 1.0
        return 1 - (1 - final) * t**3

    def before_forward(self, step: int) -> None:
        """The variance term ends with the pruning."""
        self.prunes = step < min(self.end, self.context.ticks[-1] + 1)

    def unit_scores(self) -> Units:
        """Site -> the average share of each unit."""
        return self.shares

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss and the variance term."""
        return with_penalty(loss, self.settings["variance"], self.variances)

    def variances(self) -> list[torch.Tensor]:
        """The mean variance (over n - 1) of the rows of every A, and of the columns of every B, in training; none after pruning."""
        if not self.prunes:
            return []
        return [
            rows.var(dim=1).mean()
            for adapter in self.adapters.values()
            if adapter.state == ON
            for _, rows in outer_factors(adapter)
        ]

    def state_dict(self) -> dict[str, Any]:
        """The averages too."""
        return super().state_dict() | {"shares": pack_all(self.shares)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        for name, average in self.shares.items():
            average.copy_(unpack(state["shares"][name]))


@torch.no_grad()
def is_sum_of_units(adapter: Adapter) -> bool:
    """Whether dW is a sum of one part for each rank unit, which the unit's columns of the factors give: none belongs to two units."""
    factors = adapter.delta.factors()
    several = any(len(axes_of(adapter.delta, name)) > 1 for name, _, _ in adapter.tensors())
    return factors is not None and factors[0].shape[1] % adapter.rank == 0 and not several


@torch.no_grad()
def shares(adapter: Adapter) -> torch.Tensor:
    """``|dW_i|_F / |dW|_F`` of each rank unit (rank,), 0 where dW is; in float64, in which a start can be subtracted.

    Where a unit has several columns in the factors b and a, those of the first of each unit come first, then the second ones.
    """
    factors = adapter.delta.factors()
    assert factors is not None
    b, a = (factor.double() for factor in factors)
    products = (b.T @ b) * (a @ a.T)
    blocks = products.view(-1, adapter.rank, products.shape[0] // adapter.rank, adapter.rank)
    units = torch.einsum("piqi->i", blocks).clamp_min(0).sqrt()
    whole = products.sum().clamp_min(0).sqrt()
    return torch.where(whole > 0, units / whole, 0.0)


allocators.register(DynamicDoRA)
