"""``lorakit search``: static HeteroLoRA. Score every site once, give the budget to the best, write that as a recipe."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from lorakit.artifacts.files import write_text
from lorakit.errors import RecipeError
from lorakit.recipe.load import LoadedRecipe
from lorakit.recipe.schema import SearchSection
from lorakit.search.policies.heterolora import HeteroLoRA
from lorakit.training.feed import Feed
from lorakit.training.objective import Objective
from lorakit.training.seeds import stream
from lorakit.workflow.building import Result, adapt, assemble, located, make_accelerator, make_policy, warm_start
from lorakit.workflow.calibrating import calibrate


@dataclass(frozen=True)
class RankedSite(Result):
    """A site with its score; rank and parameters are those it has when on."""

    name: str
    label: str
    role: str
    layer: int
    rank: int
    parameters: int
    score: float
    on: bool


@dataclass(frozen=True)
class SearchResult(Result):
    """Sites best first, what the budget was and what of it is used, and where the recipe went."""

    proxy: str
    ranked: list[RankedSite]
    budget: int
    used: int
    seconds: float
    emitted: Path | None
    note: str


def search(loaded: LoadedRecipe, *, emit: Path | None = None) -> SearchResult:
    """Score the fresh model's sites on training batches and allocate the recipe's budget once.

    Raises RecipeError for a recipe that has an allocation already.
    """
    recipe = loaded.recipe
    if recipe.adapter.allocation:
        raise loaded.locate(
            RecipeError(
                "gives the ranks that a search is to find",
                key="adapter.allocation",
                valid="no allocation",
                hint="the recipe that this one was made from",
            )
        )
    if recipe.search.method == "none":
        loaded = replace(loaded, recipe=replace(recipe, search=replace(recipe.search, method="heterolora")))
    parts = assemble(loaded)
    with located(loaded):
        encoded = parts.encode("train")["train"]
        adapted = adapt(parts, statistics=calibrate(parts, encoded))
        warm_start(recipe, adapted)
    accelerator = make_accelerator(loaded.recipe)
    accelerator.prepare_model(adapted.model)
    feed = Feed(encoded, loaded.recipe.training, stream(recipe.run.seed, "data"))
    policy = make_policy(parts, adapted, feed, Objective(accelerator, parts.task.regression))
    assert isinstance(policy, HeteroLoRA)
    started = time.perf_counter()
    scores = policy.score()
    chosen = policy.choose(scores).on
    seconds = time.perf_counter() - started
    site_costs = parts.costs
    ranked = [
        RankedSite(
            name=site.name,
            label=site.label,
            role=site.role,
            layer=site.layer,
            rank=parts.rank_of(site),
            parameters=site_costs[site.name],
            score=scores[site.name],
            on=site.name in chosen,
        )
        for site in sorted(parts.sites, key=lambda site: -scores[site.name])
    ]
    if emit is not None:
        allocation = {site.name: parts.rank_of(site) for site in parts.sites if site.name in chosen}
        write_text(emit, static_recipe(loaded, allocation))
    return SearchResult(
        proxy=policy.proxy.name,
        ranked=ranked,
        budget=parts.budget.parameters,
        used=sum(site_costs[name] for name in chosen),
        seconds=seconds,
        emitted=emit,
        note=f"where B = 0: {policy.proxy.at_zero}",
    )


def static_recipe(loaded: LoadedRecipe, allocation: dict[str, int]) -> str:
    """The recipe with the allocation in it and no search, ready to train."""
    recipe = loaded.recipe
    static = replace(
        recipe,
        adapter=replace(recipe.adapter, allocation=allocation),
        search=SearchSection(),
        run=replace(recipe.run, name=None),
    )
    return replace(loaded, recipe=static).to_yaml()
