"""Ranks as EVA redistributes them: where a site's inputs vary along more directions, more units (Paischer et al. 2024, arXiv 2410.07170).

    C = covariance of a site's inputs x on `search.batches` training batches, centred; its eigenvalues l_1 >= l_2 >= ...
    unit k of a site is worth l_k / sum l        the best units of all sites, at most `adapter.rank` of a site, within the budget

Decided at step 0, on the model as it is then; a site of rank 0 leaves the function. s stays that of `adapter.rank` at every rank, which
is PEFT's with adjusted scaling factors. PEFT's rho is `adapter.rank` over the rank that the budget pays for: rank 16 and
search.uniform_rank=8 are rho = 2.
Works best with `adapter.init=eva`, whose rows of A are these directions in this order: a site then keeps those it was given units for.
The init looks at batches of its own draw (`adapter.init_batches`): the same directions as far as both draws are large enough.
With any other init the ranks alone are EVA's. Projections only: a shortcut starts by no EVA, and its inputs are the residual stream.
Differs from PEFT's code in: principal components of all batches at once instead of incrementally; the budget is in parameters, there in
ranks, the same for sites of one size; units that are worth the same (q, k and v of a layer have the same inputs) are drawn.
When to use it: with init eva, at no cost in training; it looks at inputs only, so it cannot tell which sites the task needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import SearchContext, allocators
from lorakit.searching.cost_model import CostModel
from lorakit.searching.fixed_ranks import FixedRanks
from lorakit.searching.input_statistics import input_means
from lorakit.searching.scoring import without_trace
from lorakit.searching.unit_allocator import Units


class EvaRanks(FixedRanks):
    """Gives ranks by the explained variance of the sites' inputs."""

    name = "eva"
    title = "EVA's ranks"
    summary = "ranks by the explained variance of the inputs, decided at step 0"
    source = "Paischer et al. 2024, arXiv 2410.07170"
    default_share = 0.5
    at_once: ClassVar = True

    def __init__(self, context: SearchContext):
        super().__init__(context)
        for site in context.adapted.sites:
            if site.kind not in ("linear", "conv1d"):
                raise RecipeError(
                    f"allocator 'eva' compares inputs of projections, and {site.name} is a {site.kind}",
                    key="search.method",
                    valid="eva with projections alone",
                    hint="adapter.shortcuts=[]",
                )

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """One look at the inputs, at step 0, and their eigenvalues."""
        return cost_model.covariances()

    def unit_scores(self) -> Units:
        """Site -> the explained variance of its first ``rank`` principal components, as shares of the whole."""
        context = self.context
        seed = context.seed()
        batches = context.batches()
        adapted = context.adapted
        with without_trace(adapted, train_mode=False, seed=seed, all_on=False):
            found = input_means(adapted.model, adapted.sites, batches, context.logits)
        return {
            name: explained_variance(seen["covariance"], seen["mean"])[: self.adapters[name].rank]
            for name, seen in found.items()
        }


def explained_variance(products: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Eigenvalues, largest first, over their sum: of E[x x^T] - E[x] E[x]^T for ``products`` = E[x x^T]."""
    centred = products.double() - torch.outer(mean, mean).double()
    values = torch.linalg.eigvalsh(centred).flip(0).clamp_min(0)
    return values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)


allocators.register(EvaRanks)
