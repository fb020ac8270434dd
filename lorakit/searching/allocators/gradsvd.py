"""Ranks from one look at the gradient: every site gets as many rank units as its gradient's spectrum is worth.

    G = dL/dW over `search.batches` training batches, before the first step        G = U S V^T at every site
    unit k of a site is worth sigma_k^power over the parameters it costs; the best units of all sites are taken until the budget is spent
    start: svd     A = the first rows of V^T and B = 0, so that unit k is the one that was counted

A step of size lr on B with A = V_k^T changes the loss by -lr s^2 sigma_k^2 in first order: `power: 2` takes the gain of that step,
lower powers spread the budget over more sites. `per: site` divides by the site's own sum first, so that sites compete by the shape of
their spectrum and not by its size; with `per: role` each role has its share of the budget, and sites compete within it. `fit: halves` takes
the units of one half of the batches and judges them by the other, `whiten: diagonal` divides by what is usual at the site
(``lorakit.searching.spectra``). `floor` units are given to every site before anything is compared. With `agree: 0.7` the ranks
are the same everywhere where the halves' gradients do not agree on the sites: Spearman's correlation of their norms, within the roles
where those have their shares. Nothing is searched after step 0: a step costs what its ranks cost.
On MiniLM and SST-2 the budget had to be spread widely (power 0.5, the default), and A in the gradient's directions did worse than a
random one at every learning rate tried (0.84 to 0.85 against 0.86): `start: svd` is there to be compared. With `scale: own` it did
worse still (0.81 at 1e-3, nothing at 2e-3); that scale was not tried with a random A.
Ours; the first-order argument is LoRA-GA's (Wang et al. 2024, section 3), the redistribution EVA's (Paischer et al. 2024, section 3).
When to use it: where ranks should follow the gradient at no cost in training; measured, it was level with a uniform rank: whitened and
cross-fitted too (MiniLM, 500 rows of TREC or CR, rank 4 on average, fitted head, rates tuned, four seeds) 0.000 nats [-0.003, 0.003], as
were the same ranks shuffled within roles.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch

from lorakit.adapters.anchored import Anchored
from lorakit.adapters.inits.gradient import start_from_gradient
from lorakit.adapters.options import Option
from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import Decision, SearchContext, allocators
from lorakit.searching.cost_model import CostModel
from lorakit.searching.fixed_ranks import FixedRanks
from lorakit.searching.scoring import without_trace
from lorakit.searching.selection import select_units
from lorakit.searching.shuffled_ranks import shuffle_ranks
from lorakit.searching.site_moments import SiteMoments
from lorakit.searching.spectra import cross_fitted, whitened
from lorakit.searching.split_half import correlation, correlation_within, places_by_role
from lorakit.searching.unit_allocator import Units
from lorakit.searching.weight_gradients import weight_gradients
from lorakit.tasks.batching import Batch

logger = logging.getLogger(__name__)


class GradientSVD(FixedRanks):
    """Decides once, at the first tick, from the singular values of the gradient."""

    name = "gradsvd"
    title = "Gradient SVD"
    summary = "ranks from the singular values of the first gradient, decided once"
    source = "lorakit; after LoRA-GA and EVA"
    at_once = True
    needs_weight_gradients = True
    options: ClassVar = {
        **FixedRanks.options,
        "power": Option(0.5, "a unit is worth its singular value to this power", low=0.0),
        "per": Option(
            "network",
            "compare values as they are, as shares of their site's sum, or as they are within each role",
            choices=("network", "site", "role"),
        ),
        "fit": Option(
            "same",
            "judge units by the rows they came from, or those of one half by the other half",
            choices=("same", "halves"),
        ),
        "whiten": Option(
            "none",
            "the gradient as it is, or over the site's mean squares of inputs and of output gradients",
            choices=("none", "diagonal"),
        ),
        "agree": Option(
            0.0,
            "with fit: halves, the correlation of the halves' scores of sites below which all sites get the same rank",
            low=0.0,
            high=1.0,
        ),
        "floor": Option(1, "rank units that every site gets", low=0),
        "ranks": Option(
            "scored", "by the values; or, as a control, those permuted within each role", choices=("scored", "shuffled")
        ),
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
        if self.settings["fit"] == "halves" and context.search.batches < 2:
            raise RecipeError("two halves need two batches", key="search.batches", valid="2 or more, best 32")
        if self.settings["agree"] and self.settings["fit"] != "halves":
            raise RecipeError("whether halves agree is for fit: halves", key="search.options", valid="fit: halves")
        self.agreement: float | None = None

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """One look, with the gradients of whole weights, and their singular values."""
        halves = 1 + (cls.settings_from(search.options)["fit"] == "halves")
        return cost_model.of_weights() + halves * cost_model.spectra()

    def check_start(self) -> None:
        """Refuse adapters that cannot start from given factors, and spectra that are not the gradient's own."""
        if other := [name for name in ("fit", "whiten") if self.settings[name] != self.options[name].default]:
            raise RecipeError(
                f"units start in the gradient's own directions, and {other[0]} {self.settings[other[0]]} counts others",
                key="search.options",
                valid="start: init",
                hint=f"leave start or {other[0]} out",
            )
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
        seed, batches = self.context.seed(), self.context.batches()
        halves = [batches[::2], batches[1::2]] if self.settings["fit"] == "halves" else [batches]
        found = [self.gradients(half, seed) for half in halves]
        self.agreement = self.agreement_of(*found) if len(found) == 2 else None
        self.directions: dict[str, torch.Tensor] = {}
        scores: Units = {}
        for name in self.adapters:
            gradients = [of[name] for of in found]
            if self.settings["fit"] == "halves":
                values = cross_fitted(gradients[0], gradients[1], min(gradients[0].shape))
            elif self.settings["start"] == "svd":
                _, values, self.directions[name] = torch.linalg.svd(gradients[0], full_matrices=False)
            else:
                values = torch.linalg.svdvals(gradients[0])  # in two thirds of the time
            worth = values[: self.adapters[name].rank].double() ** self.settings["power"]
            scores[name] = (
                worth / (values.double() ** self.settings["power"]).sum() if self.settings["per"] == "site" else worth
            )
        return scores

    def agreement_of(self, first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> float | None:
        """How far the norms of two halves' gradients rank the sites alike; None for too few sites."""
        sites = self.context.adapted.sites
        norms = [np.array([float(half[site.name].norm()) for site in sites]) for half in (first, second)]
        if self.settings["per"] == "role":
            return correlation_within(places_by_role(sites), *norms)
        return correlation(*norms)

    @property
    def is_noise(self) -> bool:
        """Whether the halves do not agree as far as is asked for."""
        return self.settings["agree"] > 0 and (self.agreement is None or self.agreement < self.settings["agree"])

    def price(self, name: str) -> int:
        """What a site's first unit costs, in parameters."""
        return self.adapters[name].parameters_at(1)

    def decide(self, step: int) -> Decision:
        """Ranks, at the first tick; what the halves' agreement is, and where it was too little, is told."""
        decision = super().decide(step)
        if not decision.scores:
            return decision
        if self.is_noise:
            found = "nothing that could be told" if self.agreement is None else f"{self.agreement:.2f}"
            logger.info(
                "the scores are noise on these data: two halves of the rows agree on the sites by %s, below %g, so all get the same rank",
                found,
                self.settings["agree"],
            )
        return decision if self.agreement is None else replace(decision, measured={"agreement": self.agreement})

    def gradients(self, batches: Sequence[Batch], seed: int) -> dict[str, torch.Tensor]:
        """Site -> the gradient of its weight (out, in), whitened where that is asked for."""
        context = self.context
        moments = SiteMoments(context.adapted, [1], 1) if self.settings["whiten"] == "diagonal" else None

        def summed(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
            return context.loss(model, batch) * len(batch["labels"])

        with without_trace(context.adapted, train_mode=False, seed=seed):
            if moments:
                moments.before_forward(0)
            found = weight_gradients(context.adapted.model, context.adapted.sites, batches, summed)
        if moments is None:
            return found
        moments.after_backward(0)
        seen = moments.take()
        return {name: whitened(gradient, seen[name]) for name, gradient in found.items()}

    def allocate(self, scores: Units, limit: int) -> dict[str, torch.Tensor]:
        """The best units, at their sites or at others of the same role; the same rank everywhere where the halves do not agree."""
        if self.is_noise:
            return self.chosen(
                {name: torch.arange(len(values), 0, -1.0) * self.price(name) for name, values in scores.items()}, limit
            )
        chosen = self.chosen(scores, limit)
        if self.settings["ranks"] == "scored":
            return chosen
        live = {name: len(values) for name, values in scores.items()}
        roles = {site.name: site.role for site in self.context.adapted.sites}
        ranks = shuffle_ranks(
            {name: int(units.sum()) for name, units in chosen.items()}, live, roles, self.context.generator
        )
        return {name: torch.arange(live[name]) < rank for name, rank in ranks.items()}

    def chosen(self, scores: Units, limit: int) -> dict[str, torch.Tensor]:
        """The floor to every site, then the best units per parameter; within each role, where roles have their shares."""
        if self.settings["per"] != "role":
            return self.best(scores, limit)
        roles: dict[str, Units] = {}
        for site in self.context.adapted.sites:
            roles.setdefault(site.role, {})[site.name] = scores[site.name]
        whole = {name: self.adapters[name].parameters_at(self.adapters[name].rank) for name in scores}
        chosen: dict[str, torch.Tensor] = {}
        for own in roles.values():
            chosen |= self.best(own, int(limit * sum(whole[name] for name in own) / sum(whole.values())))
        return {name: chosen[name] for name in scores}

    def best(self, scores: Units, limit: int) -> dict[str, torch.Tensor]:
        """The floor to each of these sites, then the best units per parameter."""
        first = min(self.settings["floor"], *(adapter.rank for adapter in self.adapters.values()))
        lifted = {
            name: torch.cat([torch.full_like(v[:first], torch.finfo(v.dtype).max / 2), v[first:]])
            for name, v in scores.items()
        }
        return select_units(lifted, self.adapters, limit, self.context.generator, per_parameter=True)

    def give(self, ranks: Mapping[str, int]) -> None:
        """Start from the directions that were counted, where that is asked for, and cut every site to its rank."""
        if self.settings["start"] == "svd":
            for name, adapter in self.adapters.items():
                if not isinstance(adapter.delta, Anchored):
                    start_from_gradient(adapter.delta, self.directions[name])
        self.directions = {}
        super().give(ranks)


allocators.register(GradientSVD)
