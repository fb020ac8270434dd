"""``lorakit search``: decide once, before any training: score every site, give out the budget, write that as a recipe."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.files import write_text
from lorakit.errors import RecipeError
from lorakit.recipe.load import AnyRecipe, LoadedRecipe, load_recipe
from lorakit.recipe.schema import SearchSection
from lorakit.result import Result
from lorakit.searching.allocator import Allocator, Preview, allocators, decides_later
from lorakit.searching.proxy import proxies
from lorakit.searching.split_half import SplitHalf, split_half
from lorakit.tasks.batching import Batch
from lorakit.training.loader import TrainLoader
from lorakit.training.seeds import derive_seed
from lorakit.workflow.accelerator import put_on_device
from lorakit.workflow.calibrate import calibrate
from lorakit.workflow.head_start import start_head
from lorakit.workflow.objective import objective_of
from lorakit.workflow.readout import settle_readout
from lorakit.workflow.setup import adapt, assemble, drop_unused_work, make_allocator, warm_start

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankedSite(Result):
    """A site with its score.

    Attributes:
        name: its module in the model.
        label: its short name, ``3.q``.
        role: which projection or shortcut it is.
        layer: its layer, from 0.
        rank: the rank it is given, or would have if it were on.
        parameters: what it trains at that rank.
        score: the proxy's.
        on: whether it is given any budget.
    """

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
    """Every site with its score, and who gets the budget.

    Attributes:
        proxy: the name of the score.
        ranked: the sites, best first.
        budget: adapter parameters that are allowed.
        used: those that the sites that are on have.
        seconds: that scoring took, that of the two halves too.
        emitted: the recipe that was written, None where none was asked for.
        note: what to know of this proxy where B is still zero; may be empty.
        stability: whether two halves of the training rows agree on the sites, and whether a shuffled ranking would do as well.
    """

    proxy: str
    ranked: list[RankedSite]
    budget: int
    used: int
    seconds: float
    emitted: Path | None
    note: str
    stability: SplitHalf


def search(recipe: AnyRecipe, overrides: Sequence[str] = (), *, emit: str | Path | None = None) -> SearchResult:
    """Decide once, before any training: score every site on training batches and give the budget to the best.

    Args:
        recipe: the name of a shipped recipe, a YAML file, a run's folder, a file of data, or a recipe that is loaded. Its
            ``search`` section says how; a recipe without a search is searched by heterolora.
        overrides: ``KEY=VALUE`` each, which win over the recipe.
        emit: a file to write: the recipe with the ranks that were found in it, ready to train.

    Returns:
        The sites, best first, with what each is given.

    Raises:
        RecipeError: for a wrong recipe, one that has an allocation already, or an allocator that decides during a training.
        DataError: for data that cannot be used.

    Example:
        >>> found = lorakit.search("demo", ["search.enable=0.5"], emit="found.yaml")      # doctest: +SKIP
        >>> [site.label for site in found.ranked if site.on]                              # doctest: +SKIP
    """
    loaded = load_recipe(recipe, overrides)
    emit = None if emit is None else Path(emit)
    given = loaded.recipe
    if given.adapter.allocation:
        raise loaded.locate(
            RecipeError(
                "gives the ranks that a search is to find",
                key="adapter.allocation",
                valid="no allocation",
                hint="the recipe that this one was made from",
            )
        )
    loaded = replace(loaded, recipe=replace(given, search=search_before_training(given.search)))
    parts = assemble(loaded)
    with loaded.locating_errors():
        if not allocators.get(loaded.recipe.search.method).at_once:
            raise decides_later(loaded.recipe.search.method)
        loaded, parts, _ = settle_readout(loaded, parts)
        encoded = parts.encode("train")["train"]
        start_head(parts)
        adapted = adapt(parts, statistics=calibrate(parts, encoded))
        drop_unused_work(parts, adapted)
        for note in warm_start(loaded.recipe, adapted):
            logger.info("%s", note)
    moved = put_on_device(adapted.model, loaded.recipe, regression=parts.task.regression)
    objective = objective_of(parts, moved.accelerator)
    seed = derive_seed(loaded.recipe.run.seed, "data")
    loader = TrainLoader(encoded, loaded.recipe.training, seed, weights=parts.row_weights)
    with loaded.locating_errors():
        allocator = make_allocator(parts, adapted, loader, objective)
    started = time.perf_counter()
    stability = on_two_halves(allocator, loader, derive_seed(loaded.recipe.run.seed, "search/halves"))
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
        seconds=time.perf_counter() - started,
        emitted=emit,
        note=f"where B = 0: {proxies.get(tick.proxy).at_zero}" if allocator.by_proxy else "",
        stability=stability,
    )


def on_two_halves(allocator: Allocator, loader: TrainLoader, seed: int) -> SplitHalf:
    """How far two allocators like this one agree that see other rows, as many batches each as this one, or half of the rows."""
    halves = loader.halves(allocator.context.search.batches, torch.Generator().manual_seed(seed))

    def preview(batches: list[Batch]) -> Preview:
        own = torch.Generator().manual_seed(seed)  # ties are broken alike
        seeing = replace(allocator.context, draw=lambda number, generator: batches, generator=own)
        return type(allocator)(seeing).preview()

    first, second = map(preview, halves)
    rows = min(sum(len(batch["labels"]) for batch in batches) for batches in halves)
    return split_half(first, second, allocator.context.adapted.sites, rows, seed)


def search_before_training(section: SearchSection) -> SearchSection:
    """The search to do: heterolora where the recipe has none, and never by training steps, of which there are none."""
    return replace(section, method="heterolora" if section.method == "none" else section.method, scoring="separate")


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
