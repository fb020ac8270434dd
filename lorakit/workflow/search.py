"""``lorakit search``: decide once, before any training: score every site, give out the budget, write that as a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.files import write_text
from lorakit.errors import RecipeError
from lorakit.recipe.load import LoadedRecipe
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import allocators
from lorakit.searching.allocators.heterolora import HeteroLoRA
from lorakit.training.loader import TrainLoader
from lorakit.training.objective import Objective
from lorakit.training.seeds import derive_seed
from lorakit.workflow.calibrate import calibrate
from lorakit.workflow.setup import Result, adapt, assemble, lean, located, make_accelerator, make_allocator, warm_start


@dataclass(frozen=True)
class RankedSite(Result):
    """A site with its score; rank and parameters are those it is given, or would have if it were on."""

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

    Raises RecipeError for a recipe that has an allocation already, and for an allocator that needs a training to decide.
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
    method = "heterolora" if recipe.search.method == "none" else recipe.search.method
    alone = replace(recipe.search, method=method, scoring="separate")  # there are no training steps to take scores from
    loaded = replace(loaded, recipe=replace(recipe, search=alone))
    parts = assemble(loaded)
    with located(loaded):
        if not allocators.get(loaded.recipe.search.method).at_once:
            able = [name for name, kind in allocators.items() if kind.at_once]
            raise RecipeError(
                f"allocator '{loaded.recipe.search.method}' decides during a training, not before it",
                key="search.method",
                valid=", ".join(able),
                hint="lorakit train",
            )
        encoded = parts.encode("train")["train"]
        adapted = adapt(parts, statistics=calibrate(parts, encoded))
        lean(parts, adapted)
        warm_start(recipe, adapted)
    accelerator = make_accelerator(loaded.recipe)
    accelerator.prepare_model(adapted.model)
    loader = TrainLoader(encoded, loaded.recipe.training, derive_seed(recipe.run.seed, "data"))
    with located(loaded):
        allocator = make_allocator(parts, adapted, loader, Objective(accelerator, parts.task.regression))
    tick = allocator.tick(0, 0.0)
    site_costs, adapters = parts.costs, adapted.adapters
    ranked = [
        RankedSite(
            name=site.name,
            label=site.label,
            role=site.role,
            layer=site.layer,
            rank=tick.ranks[site.name] or parts.rank_of(site),
            parameters=adapters[site.name].parameters_at(tick.ranks[site.name]) or site_costs[site.name],
            score=tick.scores[site.name],
            on=tick.ranks[site.name] > 0,
        )
        for site in sorted(parts.sites, key=lambda site: -tick.scores[site.name])
    ]
    if emit is not None:
        write_text(emit, static_recipe(loaded, tick.ranks, adapted))
    return SearchResult(
        proxy=tick.proxy,
        ranked=ranked,
        budget=parts.budget.parameters,
        used=sum(site.parameters for site in ranked if site.on),
        seconds=tick.seconds,
        emitted=emit,
        note=f"where B = 0: {allocator.proxy.at_zero}" if isinstance(allocator, HeteroLoRA) else "",
    )


def static_recipe(loaded: LoadedRecipe, ranks: Mapping[str, int], adapted: AdaptedModel) -> str:
    """The recipe with the allocation in it and no search, ready to train; sites have the scales that they have in ``adapted``."""
    recipe = loaded.recipe
    adapter = replace(recipe.adapter, allocation={name: rank for name, rank in ranks.items() if rank})
    on = [adapted.adapters[name] for name in adapter.allocation]
    if any(each.scale != each.spec.scale_at(each.units.live) for each in on):  # that of the full rank, on sites of less
        own = {each.site.is_shortcut: each.scale for each in on}
        alpha = own.get(False, recipe.adapter.alpha)
        adapter = replace(adapter, scale="constant", alpha=alpha, shortcut_alpha=own.get(True))
    static = replace(recipe, adapter=adapter, search=SearchSection(), run=replace(recipe.run, name=None))
    return replace(loaded, recipe=static).to_yaml()
