"""Ranks from one look at the gradient: every site gets as many rank units as its gradient's spectrum is worth.

    G = dL/dW over `search.batches` training batches, before the first step        G = U S V^T at every site
    unit k of a site is worth sigma_k^power over the parameters it costs; the best units of all sites are taken until the budget is spent
    start: svd     A = the first rows of V^T and B = 0, so that unit k is the one that was counted

A step of size lr on B with A = V_k^T changes the loss by -lr s^2 sigma_k^2 in first order: `power: 2` takes the gain of that step,
lower powers spread the budget over more sites. `per: site` divides by the site's own sum first, so that sites compete by the shape of
their spectrum and not by its size. `floor` units are given to every site before anything is compared. Nothing is searched
after step 0: a step costs what its ranks cost.
On MiniLM and SST-2 the budget had to be spread widely (power 0.5, the default), and A in the gradient's directions did worse than a
random one at every learning rate tried (0.84 to 0.85 against 0.86): `start: svd` is there to be compared. With `scale: own` it did
worse still (0.81 at 1e-3, nothing at 2e-3); that scale was not tried with a random A.
Ours; the first-order argument is LoRA-GA's (Wang et al. 2024, section 3), the redistribution EVA's (Paischer et al. 2024, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from lorakit.adapters.anchored import Anchored
from lorakit.adapters.inits.gradient import start_from_gradient
from lorakit.adapters.options import Option
from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocate import allocate_units
from lorakit.searching.allocator import SearchContext, allocators
from lorakit.searching.cost_model import CostModel
from lorakit.searching.fixed_ranks import FixedRanks
from lorakit.searching.scoring import without_trace
from lorakit.searching.unit_allocator import Units
from lorakit.searching.weight_gradients import weight_gradients
from lorakit.tasks.batching import Batch


class GradientSVD(FixedRanks):
    """Decides once, at the first tick, from the singular values of the gradient."""

    name = "gradsvd"
    title = "Gradient SVD"
    summary = "ranks from the singular values of the first gradient, decided once"
    source = "lorakit; after LoRA-GA and EVA"
    at_once = True
    options: ClassVar = {
        **FixedRanks.options,
        "power": Option(0.5, "a unit is worth its singular value to this power", low=0.0),
        "per": Option(
            "network", "compare values as they are, or as shares of their site's sum", choices=("network", "site")
        ),
        "floor": Option(1, "rank units that every site gets", low=0),
        "start": Option(
            "init", "A's rows: as the init drew them, or the gradient's directions", choices=("init", "svd")
        ),
    }

    def __init__(self, context: SearchContext):
        super().__init__(context)
        if crossing := [site.name for site in context.adapted.sites if site.kind not in ("linear", "conv1d")]:
            raise RecipeError(
                f"allocator 'gradsvd' looks at the gradient of a weight, and {crossing[0]} has none",
                key="search.method",
                valid="gradsvd with projections alone",
                hint="adapter.shortcuts=[]",
            )
        if self.settings["start"] == "svd":
            self.check_start()

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """One look, with the gradients of whole weights, and their singular values."""
        return cost_model.of_weights() + cost_model.spectra()

    def check_start(self) -> None:
        """Refuse adapters that cannot start from given factors."""
        for adapter in self.adapters.values():
            if isinstance(adapter.delta, Anchored) or not adapter.delta.takes_factors:
                raise RecipeError(
                    f"delta '{adapter.spec.delta}' with init '{adapter.spec.init}' cannot start from the gradient's directions",
                    key="search.options",
                    valid="start: init",
                    hint="or adapter.method=lora",
                )

    def unit_scores(self) -> Units:
        """Site -> what each of its units is worth, by the spectrum of the gradient; ``directions`` are kept where they are the start."""
        context = self.context
        seed = int(torch.randint(2**31, (), generator=context.generator))
        batches = context.draw(context.search.batches, context.generator)

        def summed(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
            return context.loss(model, batch) * len(batch["labels"])

        with without_trace(context.adapted, train_mode=False, seed=seed):
            found = weight_gradients(context.adapted.model, context.adapted.sites, batches, summed)
        self.directions: dict[str, torch.Tensor] = {}
        scores: Units = {}
        for name, gradient in found.items():
            if self.settings["start"] == "svd":
                _, values, self.directions[name] = torch.linalg.svd(gradient, full_matrices=False)
            else:
                values = torch.linalg.svdvals(gradient)  # in two thirds of the time
            worth = values[: self.adapters[name].rank].double() ** self.settings["power"]
            scores[name] = (
                worth / (values.double() ** self.settings["power"]).sum() if self.settings["per"] == "site" else worth
            )
        return scores

    def allocate(self, scores: Units, limit: int) -> dict[str, torch.Tensor]:
        """The floor to every site, then the best units per parameter."""
        first = min(self.settings["floor"], *(adapter.rank for adapter in self.adapters.values()))
        lifted = {
            name: torch.cat([torch.full_like(v[:first], torch.finfo(v.dtype).max / 2), v[first:]])
            for name, v in scores.items()
        }
        return allocate_units(lifted, self.adapters, limit, self.context.generator, per_parameter=True)

    def give(self, ranks: Mapping[str, int]) -> None:
        """Start from the directions that were counted, where that is asked for, and cut every site to its rank."""
        if self.settings["start"] == "svd":
            for name, adapter in self.adapters.items():
                if not isinstance(adapter.delta, Anchored):
                    start_from_gradient(adapter.delta, self.directions[name])
        self.directions = {}
        super().give(ranks)


allocators.register(GradientSVD)
