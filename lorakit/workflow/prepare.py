"""From a recipe's parts to a training: adapters, tokenised rows, optimiser, search and updates, everything the loop needs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.base_file import load_base
from lorakit.artifacts.run import Run
from lorakit.backbone.trained_head import FITTED
from lorakit.recipe.load import LoadedRecipe
from lorakit.recipe.schema import Recipe
from lorakit.tasks.batching import Encoded
from lorakit.tasks.calibration import Calibration, calibration_of
from lorakit.tasks.metrics import main_metric
from lorakit.training.evaluation import score_splits
from lorakit.training.graphs import LENGTHS, Graphs, against_padding, use_graphs
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.loader import TrainLoader
from lorakit.training.malloc import give_memory_back
from lorakit.training.objective import Objective
from lorakit.training.optim import base_rate, check_suits, make_optimizer, make_scheduler
from lorakit.training.schedule import Schedule
from lorakit.training.search_hook import SearchHook
from lorakit.training.seeds import derive_seed, generator
from lorakit.training.tail_average import TailAverage
from lorakit.training.training import Training
from lorakit.training.update import (
    Update,
    UpdateContext,
    chosen_updates,
    rows_aside,
    schedule_beside,
    summed_loss,
    update_notes,
)
from lorakit.workflow.accelerator import check_device, check_optimizer_runs, make_accelerator
from lorakit.workflow.calibrate import calibrate
from lorakit.workflow.data_parallel import prepared, tell_no_more_than_needed
from lorakit.workflow.freeze import freeze, settle_block
from lorakit.workflow.head_start import start_head
from lorakit.workflow.objective import objective_of
from lorakit.workflow.parts import Parts
from lorakit.workflow.setup import adapt, drop_unused_work, make_allocator, warm_start
from lorakit.workflow.sharding import check_model, shard

logger = logging.getLogger(__name__)


def prepare(
    loaded: LoadedRecipe,
    parts: Parts,
    run: Run,
    hooks: Sequence[Hook] = (),
    *,
    fresh: bool = True,
    sharded: bool = False,
) -> Training:
    """Everything the loop needs.

    fresh: whether the adapters start here; otherwise their tensors are loaded afterwards, and no init looks at data; sharded: whether
    the processes share the frozen weights out, once the adapters have started (``sharding``).
    """
    recipe, task = loaded.recipe, parts.task
    if recipe.training.gradient_checkpointing or sharded:  # memory counts more than time
        give_memory_back()
    with loaded.locating_errors():
        encoded = parts.encode("train", *task.validation)
        schedule = schedule_beside(recipe, len(encoded["train"]))
        check_device(recipe)
        check_optimizer_runs(recipe)
        if sharded:
            check_model(parts.backbone.model)
        if fresh:
            start_head(parts)
            settle_block(parts, encoded["train"])
            recipe = parts.recipe
        parts.features.clear()  # nobody asks for it any more
        adapted = adapt(parts, statistics=calibrate(parts, encoded["train"]) if fresh else None)
        check_suits(adapted, recipe.training)
        if fresh:
            for note in warm_start(recipe, adapted):
                logger.info("%s", note)
        else:
            load_base(adapted, run)
    drop_unused_work(parts, adapted)
    accelerator = make_accelerator(recipe, run.path)
    if sharded:
        model = shard(adapted, accelerator)
    else:
        tell_no_more_than_needed(accelerator, recipe, adapted)
        model = prepared(accelerator, adapted.model)
    objective = objective_of(parts, accelerator)
    with loaded.locating_errors():
        states = freeze(parts, encoded["train"], objective, schedule)
    loader = make_loader(parts, encoded["train"], accelerator, numbered=states is not None, in_step=sharded)
    loader, aside = set_aside(recipe, loader)
    optimizer = make_optimizer(adapted, recipe.training, base_rate(recipe), seed=recipe.run.seed)
    search: list[SearchHook] = []
    with loaded.locating_errors():
        if recipe.search.method != "none":
            allocator = make_allocator(parts, adapted, loader, objective, schedule, optimizer)
            search = [SearchHook(allocator, run, writes=accelerator.is_main_process, optimizer=optimizer)]
        for note in update_notes(recipe, adapted):
            logger.info("%s", note)
        updates = make_updates(recipe, adapted, schedule, objective, optimizer, loader, aside, fresh=fresh)
        graphs = None
        unpadded = against_padding(adapted.model, encoded["train"])
        if use_graphs(recipe, accelerator, adapted.model.config, [*search, *updates], unpadded=unpadded):
            graphs, loader = Graphs(adapted), replace(loader, multiple=LENGTHS)
    average = [TailAverage(adapted, recipe, schedule)] if recipe.training.average else []
    state = TrainState(
        total_steps=schedule.total_steps,
        steps_per_epoch=schedule.steps_per_epoch,
        lr=base_rate(recipe),
        sites_on=len(adapted.on),
        sites_total=len(adapted.sites),
        next_tick=schedule.next_tick(0),
    )
    outputs: dict[str, np.ndarray] = {}
    loss = summed_loss(objective, [*updates, *(hook.allocator for hook in search)])
    training = Training(
        recipe=recipe,
        task=task,
        run=run,
        adapted=adapted,
        model=model,
        accelerator=accelerator,
        objective=objective,
        loss=states.around_loss(loss) if states else loss,
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, recipe.training, schedule, updates),
        schedule=schedule,
        loader=loader,
        evaluate=lambda: score_splits(adapted.model, task, encoded, objective, recipe.evaluation.batch_size, outputs),
        metric=main_metric(task),
        state=state,
        hooks=[*search, *updates, *average, *([graphs] if graphs else []), *hooks],
        graphs=graphs,
        states=states,
        outputs=outputs,
        calibrate=lambda: calibrate_first(parts, encoded, outputs),
        sharded=sharded,
        head_reads=parts.backbone.head.kept
        or recipe.model.head_start == FITTED
        or bool(recipe.adapter.start and recipe.adapter.start_head),
    )
    seed_dropout(recipe)
    return training


def calibrate_first(
    parts: Parts, encoded: Mapping[str, Encoded], outputs: Mapping[str, np.ndarray]
) -> Calibration | None:
    """The temperature for the outputs on the first validation split, where the recipe wants one."""
    first = parts.task.validation[0]
    labels = encoded[first].labels
    if labels is None or not parts.recipe.evaluation.calibrate:
        return None
    return calibration_of(parts.task, outputs[first], labels.numpy())


def make_loader(
    parts: Parts, rows: Encoded, accelerator: Accelerator, *, numbered: bool = False, in_step: bool = False
) -> TrainLoader:
    """The training rows, this process's part of them; numbered where states are kept."""
    recipe = parts.recipe
    return TrainLoader(
        rows,
        recipe.training,
        derive_seed(recipe.run.seed, "data"),
        accelerator.process_index,
        accelerator.num_processes,
        in_step=in_step,
        weights=parts.row_weights,
        numbered=numbered,
    )


def set_aside(recipe: Recipe, loader: TrainLoader) -> tuple[TrainLoader, TrainLoader]:
    """The rows that steps see, and those that updates have for themselves: the same ones, where none sets some aside."""
    aside = rows_aside(recipe, len(loader.encoded))
    return loader.parted(aside) if aside else (loader, loader)


def make_updates(
    recipe: Recipe,
    adapted: AdaptedModel,
    schedule: Schedule,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    loader: TrainLoader,
    aside: TrainLoader,
    *,
    fresh: bool,
) -> list[Update]:
    """The recipe's updates in order; each draws, and draws training rows, from a stream of its own."""
    updates = []
    for kind, options in chosen_updates(recipe):
        own = generator(recipe.run.seed, f"updates/{kind.name}")
        draws = aside if kind.aside(kind.settings_from(options)) else loader
        draw = partial(draws.sample, generator=own)
        updates.append(kind(UpdateContext(adapted, recipe, schedule, objective, optimizer, draw, own, options, fresh)))
    return updates


def seed_dropout(recipe: Recipe) -> None:
    """Dropout draws from torch's global generator, which starts here."""
    torch.manual_seed(derive_seed(recipe.run.seed, "dropout"))
