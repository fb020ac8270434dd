"""From a recipe to an adapted model: load data and backbone, choose sites, resolve the budget, attach the adapters."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.attach import NO_SITE_STATISTICS, attach
from lorakit.adapters.conflicts import conflicts_with_base, conflicts_with_search
from lorakit.adapters.delta import deltas
from lorakit.adapters.gradient_checkpointing import recompute_layers
from lorakit.adapters.method import methods, resolve, shortcut_spec
from lorakit.adapters.rank_units import closers
from lorakit.artifacts.base_function import check_over
from lorakit.artifacts.correction import check_start
from lorakit.artifacts.experts import KEY as EXPERTS_KEY
from lorakit.artifacts.experts import put_in
from lorakit.artifacts.warm_start import KEY, start_from
from lorakit.backbone.few_bits import Precision
from lorakit.backbone.first_token import compute_first_token_only
from lorakit.backbone.quantised import NONE
from lorakit.backbone.readout import reads_first_token_alone
from lorakit.backbone.shared import SharedBackbone
from lorakit.backbone.site import Site
from lorakit.backbone.unusable import refuse_mixed_precision
from lorakit.errors import RecipeError
from lorakit.recipe.load import LoadedRecipe
from lorakit.recipe.schema import Recipe
from lorakit.searching.allocator import Allocator, SearchContext, allocators, check_acts_in_training
from lorakit.searching.proxy import proxies
from lorakit.searching.unit_allocator import no_units
from lorakit.tasks.task import TaskData
from lorakit.training.dropout import fast_dropout
from lorakit.training.loader import TrainLoader
from lorakit.training.losses import check_suits
from lorakit.training.objective import Objective
from lorakit.training.optim import moments_of
from lorakit.training.optimizer import KEY as OPTIMIZER_KEY
from lorakit.training.optimizer import optimizers
from lorakit.training.schedule import Schedule
from lorakit.training.seeds import generator
from lorakit.training.tail_average import check_average
from lorakit.training.update import chosen_updates
from lorakit.workflow.accelerator import check_precision, check_trackers, this_process
from lorakit.workflow.freeze import check_freezing
from lorakit.workflow.parts import Parts, load_data, load_model, start_at_frequencies
from lorakit.workflow.sites import choose_budget, choose_sites, read_site_options

logger = logging.getLogger(__name__)


def assemble(
    loaded: LoadedRecipe,
    data: TaskData | None = None,
    *,
    precisions: Mapping[str, Precision] | None = None,
    shared: SharedBackbone | None = None,
) -> Parts:
    """Load what the recipe names and check what only the model can tell: targets, budget (``adapt`` checks the ranks).

    data: where it is at hand already; precisions: of mixed matrices, as a run keeps them; shared: as in ``load_model``.
    """
    recipe = loaded.recipe
    with loaded.locating_errors():
        check_precision(recipe)
        check_trackers(recipe)
        if recipe.search.method != "none":
            check_acts_in_training(allocators.get(recipe.search.method))
        if recipe.adapter.start:
            check_start(Path(recipe.adapter.start), recipe.model)
        check_updates_go_on(recipe)
        check_moments_are_kept(recipe)
        check_proxy_leaves_weights(recipe)
        check_average(recipe)
        check_freezing(recipe)
        check_experts(recipe)
        linear, shortcut = resolve(recipe.adapter), shortcut_spec(recipe.adapter)
        if problems := [*conflicts_with_search(linear, recipe.search), *conflicts_with_base(linear, recipe.model)]:
            raise RecipeError(problems)
        data = data or load_data(recipe)
        check_suits(recipe.training, data.task)
        backbone = load_model(recipe, data.task, precisions, shared)
        refuse_mixed_precision(backbone.model.config, recipe.training.precision)
        start_at_frequencies(backbone, data)
        for kind, _ in chosen_updates(recipe):
            kind.check_model(backbone)
        for note in backbone.notes:
            logger.info("%s", note)
        if backbone.head.loud:
            logger.warning("%s", backbone.head.note)
        sites, ranks = choose_sites(recipe, backbone)
        check_units(recipe.search.method, linear.delta, sites)
        options = read_site_options(recipe, linear, sites)
        budget = choose_budget(recipe, sites, linear, shortcut, ranks, options)
    return Parts(recipe, data, backbone, sites, linear, shortcut, budget, ranks, options)


def check_experts(recipe: Recipe) -> None:
    """RecipeError for a mixture over finished runs that names none, or whose runs nobody has opened (``experts``)."""
    adapter, delta = recipe.adapter, resolve(recipe.adapter).delta
    if deltas.get(delta).over_runs == delta and not adapter.experts:
        what = f"delta '{delta}' of method '{adapter.method}' weighs the adapters of finished runs, and none is named"
        hint = f"{EXPERTS_KEY}=[runs/one-0,runs/two-0]"
        raise RecipeError(what, key=EXPERTS_KEY, valid="two or more runs over this model", hint=hint)
    if adapter.experts and not adapter.allocation:
        what = "names runs whose adapters become experts, and this command opens none"
        raise RecipeError(what, key=EXPERTS_KEY, valid="`lorakit train`, `plan`, `compare` and `sweep`, of one recipe")


def check_units(search: str, delta: str, sites: Sequence[Site]) -> None:
    """RecipeError for a search for single rank units where a site has none: shortcuts always have some."""
    by_unit = search != "none" and allocators.get(search).by == "unit"
    if by_unit and not closers(deltas.get(delta)) and any(not site.is_shortcut for site in sites):
        raise RecipeError(no_units(search, delta))


def check_updates_go_on(recipe: Recipe) -> None:
    """RecipeError for updates that cannot be read, for those of single entries where a search writes the factors anew, and for what
    they say themselves that they do not go with.
    """
    search, spec = recipe.search.method, resolve(recipe.adapter)
    if problems := [problem for kind, _ in chosen_updates(recipe) for problem in kind.refusals(recipe, spec)]:
        raise RecipeError(problems)
    fixed = [kind.name for kind, _ in chosen_updates(recipe) if kind.fixes_entries]
    holding = [kind.name for kind, _ in chosen_updates(recipe) if "holds" in vars(kind)]
    if holding and (others := [name for name in fixed if name != holding[0]]):
        what = f"update '{holding[0]}' says which entries of A and B stay as they are, and '{others[0]}' decides on entries too"
        raise RecipeError(what, key="adapter.updates", valid="one of them")
    if fixed and methods.get(recipe.adapter.method).fill(recipe.adapter).in_full:
        what = f"update '{fixed[0]}' chooses among entries of adapters, and what trains in full has none"
        raise RecipeError(what, key="adapter.in_full", valid="[] with this update", hint="adapter.updates=[]")
    if fixed and search != "none" and allocators.get(search).refactors:
        raise RecipeError(
            f"update '{fixed[0]}' chooses single entries of A and B, and allocator '{search}' writes both anew",
            key="search.method",
            valid="none or heterolora with this update",
            hint="adapter.updates=[]",
        )


def check_moments_are_kept(recipe: Recipe) -> None:
    """RecipeError where a search or an update changes Adam's moments with what it changes, and the optimiser keeps none of their shape."""
    kind, search = optimizers.get(recipe.training.optimizer), recipe.search
    if kind.keeps_moments:
        return
    changing = [
        f"update '{each.name}'" for each, own in chosen_updates(recipe) if each.moves_moments(each.settings_from(own))
    ]
    if search.method != "none" and allocators.get(search.method).moves_moments(search):
        changing.append(f"allocator '{search.method}'")
    if changing:
        keeping = ", ".join(name for name, each in optimizers.items() if each.keeps_moments)
        raise RecipeError(
            f"{changing[0]} changes Adam's moments of what it changes, and optimiser '{kind.name}' keeps none to change",
            key=OPTIMIZER_KEY,
            valid=f"{keeping} with it",
            hint="lorakit show says by which of its options it leaves them alone, where there is one",
        )


def check_proxy_leaves_weights(recipe: Recipe) -> None:
    """RecipeError for a proxy that rewrites weights which are quantised."""
    rewriting = [name for name, proxy in proxies.items() if proxy.rewrites_weights]
    if recipe.model.quantization != NONE and recipe.search.method != "none" and recipe.search.proxy in rewriting:
        raise RecipeError(
            f"proxy '{recipe.search.proxy}' rewrites the frozen weights, and these are quantised to {recipe.model.quantization}",
            key="search.proxy",
            valid=", ".join(name for name in proxies.names() if name not in rewriting),
        )


def adapt(
    parts: Parts, *, statistics: Mapping[str, Mapping[str, torch.Tensor]] | None = NO_SITE_STATISTICS
) -> AdaptedModel:
    """Attach the adapters; each site starts from its own stream of the run's seed.

    statistics: site name -> what its init needs of training data (see ``calibrate``); None where the tensors are loaded afterwards.
    """
    seed, told = parts.recipe.run.seed, len(parts.backbone.notes)
    adapted = attach(
        parts.backbone,
        parts.sites,
        parts.linear,
        parts.shortcut,
        norm=parts.recipe.adapter.shortcut_norm,
        ranks=parts.ranks,
        options=parts.options,
        block=parts.method.block,
        statistics=statistics,
        exact=parts.recipe.adapter.init_svd == "exact",
        generator_for=lambda name: generator(seed, f"init/{name}"),
    )
    for note in parts.backbone.notes[told:]:
        logger.info("%s", note)
    put_in(adapted, parts.experts)
    if parts.recipe.training.gradient_checkpointing:
        recompute_layers(adapted)
    return adapted


def warm_start(recipe: Recipe, adapted: AdaptedModel) -> list[str]:
    """Put in the trained adapter that the recipe starts from, where it names one; what a person should know of it, a sentence each."""
    section = recipe.adapter
    if not section.start:
        return []
    over = check_over(recipe, adapted.backbone.model.config, Path(section.start), KEY)
    growing = any(kind.grows_start for kind, _ in chosen_updates(recipe))
    return [*start_from(adapted, Path(section.start), with_head=section.start_head, growing=growing), *over]


def drop_unused_work(parts: Parts, adapted: AdaptedModel) -> None:
    """Make training steps cheaper where that changes no number, or dropout's draws alone."""
    parts.backbone.model.config.use_cache = False  # keys and values are kept for generation alone
    if only_sites_see_tokens(parts):
        compute_first_token_only(adapted.model, parts.backbone.anatomy)
    if this_process().device.type == "cpu":
        fast_dropout(adapted.model)


def only_sites_see_tokens(parts: Parts) -> bool:
    """Whether the sites' adapters are all that works on tokens, each by itself: no search, shortcut, block or update looks at others than
    the head."""
    recipe = parts.recipe
    if not reads_first_token_alone(recipe.model.readout):
        return False
    search = recipe.search.method
    looks = search != "none" and allocators.get(search).sees_tokens
    updates = any(kind.sees_tokens for kind, _ in chosen_updates(recipe))
    own = recipe.adapter.shortcuts or recipe.adapter.in_full or parts.method.block
    return not (looks or updates or own or deltas.get(parts.linear.delta).pools_rows)


def make_allocator(
    parts: Parts,
    adapted: AdaptedModel,
    loader: TrainLoader,
    objective: Objective,
    schedule: Schedule | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Allocator:
    """The recipe's allocator, scoring training rows only; without a schedule and an optimiser for a search outside a training."""
    search = parts.recipe.search
    context = SearchContext(
        adapted=adapted,
        search=search,
        budget=parts.budget,
        costs=parts.costs,
        draw=loader.first if search.data == "first" else loader.sample,
        loss=objective.mean,
        logits=objective.logits,
        regression=parts.task.regression,
        generator=generator(parts.recipe.run.seed, "search"),
        total_steps=schedule.total_steps if schedule else 1,
        ticks=schedule.ticks if schedule else [0],
        moments=partial(moments_of, optimizer) if optimizer else lambda parameter: (),
    )
    allocator: Allocator = allocators.get(search.method)(context)
    return allocator
