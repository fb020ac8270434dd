"""From a recipe to a training: load data and backbone, choose sites, resolve the budget, attach the adapters, prepare the loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.attach import NO_SITE_STATISTICS, attach
from lorakit.adapters.conflicts import conflicts_with_search
from lorakit.adapters.gradient_checkpointing import recompute_layers
from lorakit.adapters.method import resolve, shortcut_spec
from lorakit.artifacts.run import Run
from lorakit.artifacts.warm_start import start_from
from lorakit.backbone.first_token import compute_first_token_only
from lorakit.errors import RecipeError
from lorakit.recipe.load import LoadedRecipe
from lorakit.recipe.schema import Recipe
from lorakit.searching.allocator import Allocator, SearchContext, allocators, check_acts_in_training
from lorakit.tasks.batching import Encoded
from lorakit.tasks.metrics import main_metric
from lorakit.tasks.task import TaskData
from lorakit.training.dropout import fast_dropout
from lorakit.training.evaluation import score_splits
from lorakit.training.graphs import LENGTHS, Graphs, check_graphs
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.loader import TrainLoader
from lorakit.training.malloc import give_memory_back
from lorakit.training.objective import Objective
from lorakit.training.optim import make_optimizer, make_scheduler, moments_of
from lorakit.training.schedule import Schedule, make_schedule
from lorakit.training.search_hook import SearchHook
from lorakit.training.seeds import derive_seed, generator
from lorakit.training.training import Training
from lorakit.training.update import Update, UpdateContext, chosen_updates, summed_loss
from lorakit.workflow.accelerator import check_device, check_precision, check_trackers, make_accelerator, this_process
from lorakit.workflow.calibrate import calibrate
from lorakit.workflow.parts import Parts, load_data, load_model
from lorakit.workflow.sites import choose_budget, choose_sites, read_site_options

logger = logging.getLogger(__name__)


def assemble(loaded: LoadedRecipe, data: TaskData | None = None) -> Parts:
    """Load what the recipe names and check what only the model can tell: targets, budget (``adapt`` checks the ranks).

    data: where it is at hand already.
    """
    recipe = loaded.recipe
    with loaded.locating_errors():
        check_precision(recipe)
        check_trackers(recipe)
        if recipe.search.method != "none":
            check_acts_in_training(allocators.get(recipe.search.method))
        chosen_updates(recipe)
        linear, shortcut = resolve(recipe.adapter), shortcut_spec(recipe.adapter)
        if problems := conflicts_with_search(linear, recipe.search):
            raise RecipeError(problems)
        data = data or load_data(recipe)
        backbone = load_model(recipe, data.task)
        for note in backbone.notes:
            logger.info("%s", note)
        sites, ranks = choose_sites(recipe, backbone)
        options = read_site_options(recipe, linear, sites)
        budget = choose_budget(recipe, sites, linear, shortcut, ranks, options)
    return Parts(recipe, data, backbone, sites, linear, shortcut, budget, ranks, options)


def adapt(
    parts: Parts, *, statistics: Mapping[str, Mapping[str, torch.Tensor]] | None = NO_SITE_STATISTICS
) -> AdaptedModel:
    """Attach the adapters; each site starts from its own stream of the run's seed.

    statistics: site name -> what its init needs of training data (see ``calibrate``); None where the tensors are loaded afterwards.
    """
    seed = parts.recipe.run.seed
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
        generator_for=lambda name: generator(seed, f"init/{name}"),
    )
    if parts.recipe.training.gradient_checkpointing:
        recompute_layers(adapted)
    return adapted


def prepare(
    loaded: LoadedRecipe, parts: Parts, run: Run, hooks: Sequence[Hook] = (), *, fresh: bool = True
) -> Training:
    """Everything the loop needs.

    fresh: whether the adapters start here; otherwise their tensors are loaded afterwards, and no init looks at data.
    """
    recipe, task = loaded.recipe, parts.task
    if recipe.training.gradient_checkpointing:  # memory counts more than time
        give_memory_back()
    with loaded.locating_errors():
        encoded = parts.encode("train", *task.validation)
        schedule = make_schedule(recipe, len(encoded["train"]))
        check_device(recipe)
        adapted = adapt(parts, statistics=calibrate(parts, encoded["train"]) if fresh else None)
        if fresh:
            warm_start(recipe, adapted)
    drop_unused_work(parts, adapted)
    accelerator = make_accelerator(recipe, run.path)
    model = accelerator.prepare_model(adapted.model)
    objective = Objective(accelerator, task.regression)
    loader = make_loader(recipe, encoded["train"], accelerator)
    optimizer = make_optimizer(adapted, recipe.training)
    search: list[SearchHook] = []
    with loaded.locating_errors():
        if recipe.search.method != "none":
            allocator = make_allocator(parts, adapted, loader, objective, schedule, optimizer)
            search = [SearchHook(allocator, run, writes=accelerator.is_main_process)]
        updates = make_updates(recipe, adapted, schedule, objective, optimizer, loader)
        graphs = None
        if recipe.training.cuda_graphs:
            check_graphs(recipe.training, accelerator, adapted.model.config, [*search, *updates])
            graphs = Graphs(adapted)
    state = TrainState(
        total_steps=schedule.total_steps,
        steps_per_epoch=schedule.steps_per_epoch,
        lr=recipe.training.lr or 0.0,
        sites_on=len(adapted.on),
        sites_total=len(adapted.sites),
        next_tick=schedule.next_tick(0),
    )
    decided: dict[str, np.ndarray] = {}
    training = Training(
        recipe=recipe,
        run=run,
        adapted=adapted,
        model=model,
        accelerator=accelerator,
        objective=objective,
        loss=summed_loss(objective, [*updates, *(hook.allocator for hook in search)]),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, recipe.training, schedule),
        schedule=schedule,
        loader=loader,
        evaluate=lambda: score_splits(adapted.model, task, encoded, objective, recipe.evaluation.batch_size, decided),
        metric=main_metric(task),
        state=state,
        hooks=[*search, *updates, *([graphs] if graphs else []), *hooks],
        graphs=graphs,
        decided=decided,
    )
    seed_dropout(recipe)
    return training


def warm_start(recipe: Recipe, adapted: AdaptedModel) -> None:
    """Put in the trained adapter that the recipe starts from, where it names one."""
    if recipe.adapter.start:
        for note in start_from(adapted, Path(recipe.adapter.start)):
            logger.info("%s", note)


def drop_unused_work(parts: Parts, adapted: AdaptedModel) -> None:
    """Make training steps cheaper where that changes no number, or dropout's draws alone."""
    parts.backbone.model.config.use_cache = False  # keys and values are kept for generation alone
    if only_sites_see_tokens(parts):
        compute_first_token_only(adapted.model, parts.backbone.anatomy)
    if this_process().device.type == "cpu":
        fast_dropout(adapted.model)


def only_sites_see_tokens(parts: Parts) -> bool:
    """Whether the sites' adapters are all that works on tokens: no search, shortcut, block or update looks at others than the head."""
    recipe = parts.recipe
    search = recipe.search.method
    looks = search != "none" and allocators.get(search).sees_tokens
    updates = any(kind.sees_tokens for kind, _ in chosen_updates(recipe))
    return not (looks or updates or recipe.adapter.shortcuts or parts.method.block)


def make_loader(recipe: Recipe, rows: Encoded, accelerator: Accelerator) -> TrainLoader:
    """The training rows, this process's part of them; in few lengths where graphs are taken of each."""
    return TrainLoader(
        rows,
        recipe.training,
        derive_seed(recipe.run.seed, "data"),
        accelerator.process_index,
        accelerator.num_processes,
        multiple=LENGTHS if recipe.training.cuda_graphs else 1,
    )


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


def make_updates(
    recipe: Recipe,
    adapted: AdaptedModel,
    schedule: Schedule,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    loader: TrainLoader,
) -> list[Update]:
    """The recipe's updates in order; each draws, and draws training rows, from a stream of its own."""
    updates = []
    for kind, options in chosen_updates(recipe):
        own = generator(recipe.run.seed, f"updates/{kind.name}")
        draw = partial(loader.sample, generator=own)
        updates.append(kind(UpdateContext(adapted, recipe, schedule, objective, optimizer, draw, own, options)))
    return updates


def seed_dropout(recipe: Recipe) -> None:
    """Dropout draws from torch's global generator, which starts here."""
    torch.manual_seed(derive_seed(recipe.run.seed, "dropout"))
