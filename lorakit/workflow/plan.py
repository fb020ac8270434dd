"""``lorakit plan``: what a recipe would do, worked out before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from lorakit.adapters.init import inits
from lorakit.backbone.quantised import MIXED, number_count
from lorakit.backbone.readout import PAIR
from lorakit.errors import UsageError
from lorakit.recipe.load import AnyRecipe, load_recipe
from lorakit.recipe.schema import AUTO, CUSTOM, Recipe
from lorakit.result import Result
from lorakit.searching.allocator import allocators
from lorakit.searching.cost_model import CostModel, longest_rows
from lorakit.searching.proxy import proxies
from lorakit.tasks.baselines import FROZEN_ROWS
from lorakit.tasks.batching import sorted_together
from lorakit.tasks.survey import remarks
from lorakit.training.frozen_states import GIB
from lorakit.training.optim import check_suits, optimizer_bytes
from lorakit.training.rate import steps_worth
from lorakit.training.schedule import Schedule
from lorakit.training.tail_average import snapshot_steps
from lorakit.training.update import chosen_updates, never_trained, schedule_beside, update_notes
from lorakit.workflow.accelerator import check_optimizer_runs
from lorakit.workflow.calibrate import MEASURES
from lorakit.workflow.experts import assemble_with_experts
from lorakit.workflow.fit import Fit, find_fit, read_size
from lorakit.workflow.freeze import kept_bytes
from lorakit.workflow.frozen_features import starts_fitted
from lorakit.workflow.inspect_data import survey
from lorakit.workflow.memory import footprint_of, frozen_bytes, measure
from lorakit.workflow.parts import Parts, encode_rows
from lorakit.workflow.readout import candidates
from lorakit.workflow.rehearse import rehearse
from lorakit.workflow.setup import adapt, drop_unused_work, warm_start
from lorakit.workflow.sharding import check_sharding
from lorakit.workflow.sites import frozen_layers

PASSES = 2
"""Forward passes that a training step takes at least: there, and back through frozen weights."""
SAMPLE = 1000
"""Training rows whose lengths a plan looks at."""
SURVEYED = 50_000
"""Rows of own data, in all splits, up to which a plan looks at every text."""


@dataclass(frozen=True)
class PlannedSite(Result):
    """One site.

    Attributes:
        name: its module in the model.
        label: its short name, ``3.q``.
        role: which projection or shortcut it is.
        layer: its layer, from 0.
        shape: of its weight, ``OUTxIN``.
        rank: of its adapter when it is on.
        parameters: what that trains.
    """

    name: str
    label: str
    role: str
    layer: int
    shape: str
    rank: int
    parameters: int


@dataclass(frozen=True)
class Plan(Result):
    """What a training would be.

    Attributes:
        sites: everything that gets an adapter.
        adapter_parameters: with every site on.
        head_parameters: of the task's head, not in the budget.
        model_parameters: of the frozen backbone and the head.
        model_bytes: what the frozen backbone is kept in, quantised where the recipe says so.
        budget: adapter parameters that may be on at once.
        budget_source: the keys that say so.
        rows: of the training split that steps see.
        steps_per_epoch: optimiser steps.
        total_steps: of the whole training.
        warmup_steps: of these, those in which the learning rate rises.
        ticks: steps before which the search acts; empty without a search.
        evaluations: steps after which the validation splits are scored.
        search_overhead: percent of the training's time, predicted from what its passes and steps compute.
        rate_overhead: percent of the training's time that finding a learning rate takes, 0 where the recipe gives one.
        optimizer_bytes: what the optimiser keeps of everything that trains, with every site on.
        memory_bytes: the peak, beside Python, its libraries and the data (``lorakit.workflow.memory``), of one process.
        fit: what makes it fit into the memory that was named; None where none was.
        notes: what to know before starting.
        remarks: what to look at in own data, as `lorakit data` says it; of at most 50,000 rows.
    """

    sites: list[PlannedSite]
    adapter_parameters: int
    head_parameters: int
    model_parameters: int
    model_bytes: int
    budget: int
    budget_source: str
    rows: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    ticks: list[int]
    evaluations: list[int]
    search_overhead: float
    rate_overhead: float
    optimizer_bytes: int
    memory_bytes: int
    fit: Fit | None
    notes: list[str]
    remarks: list[str]


def plan(recipe: AnyRecipe, overrides: Sequence[str] = (), *, fit: str | None = None, fsdp: int = 1) -> Plan:
    """Work a recipe out on its real model and data; nothing is trained or written.

    Args:
        recipe: the name of a shipped recipe, a YAML file, a run's folder, a file of data, or a recipe that is loaded.
        overrides: ``KEY=VALUE`` each, which win over the recipe.
        fit: an amount of memory, as ``24GB``, for which settings are looked for.
        fsdp: processes that share the frozen weights out (FSDP version 2): the memory is then that of one of them.

    Returns:
        Its sites, budget, steps, search ticks and memory.

    Raises:
        RecipeError: for a wrong recipe, or one that does not fit its model, or whose model cannot be shared out; everything that is
            wrong at once.
        UsageError: for fewer than one process.
        DataError: for data that cannot be used.

    Example:
        >>> planned = lorakit.plan("demo", ["adapter.rank=4"])                 # doctest: +SKIP
        >>> planned.budget, planned.total_steps, planned.memory_bytes          # doctest: +SKIP
    """
    if fsdp < 1:
        raise UsageError(f"{fsdp} processes share nothing", where="--fsdp", valid="1 or more")
    loaded, size = load_recipe(recipe, overrides), None if fit is None else read_size(fit)
    with loaded.locating_errors():
        if fsdp > 1:
            check_sharding(loaded.recipe)
    loaded, parts = assemble_with_experts(loaded)
    with loaded.locating_errors():
        schedule = schedule_beside(loaded.recipe, len(parts.data.splits["train"]))
        check_optimizer_runs(loaded.recipe)
        adapted = adapt(parts, statistics=None)
        check_suits(adapted, loaded.recipe.training)
        drop_unused_work(parts, adapted)
        told = [*update_notes(loaded.recipe, adapted), *warm_start(loaded.recipe, adapted)]
        measured = measure(parts, adapted, fsdp)
        never = never_trained(loaded.recipe, adapted)
    site_costs = {name: number - never[name] for name, number in parts.costs.items()}
    sites = [
        PlannedSite(
            name=site.name,
            label=site.label,
            role=site.role,
            layer=site.layer,
            shape=f"{site.out_features}x{site.in_features}",
            rank=parts.rank_of(site),
            parameters=site_costs[site.name],
        )
        for site in parts.sites
    ]
    planned = Plan(
        sites=sites,
        adapter_parameters=sum(site_costs.values()) + parts.shared_cost,
        head_parameters=adapted.head_parameters(),
        model_parameters=number_count(adapted.model)
        - sum(p.numel() for held in (*adapted.adapters.values(), *adapted.shared.values()) for p in held.parameters()),
        model_bytes=frozen_bytes(adapted),
        budget=parts.budget.parameters - never.total(),
        budget_source=parts.budget.source,
        rows=schedule.rows,
        steps_per_epoch=schedule.steps_per_epoch,
        total_steps=schedule.total_steps,
        warmup_steps=schedule.warmup_steps,
        ticks=schedule.ticks,
        evaluations=schedule.evaluations,
        search_overhead=search_overhead(parts, schedule),
        rate_overhead=rate_overhead(loaded.recipe, schedule),
        optimizer_bytes=optimizer_bytes(adapted, loaded.recipe.training),
        memory_bytes=footprint_of(loaded.recipe, measured).total,
        fit=None if size is None else find_fit(loaded, measured, size),
        notes=[*loaded.told, *make_notes(parts, schedule), *head_notes(parts, schedule), *told],
        remarks=survey_remarks(parts),
    )
    with loaded.locating_errors():  # after all that is counted: it may switch adapters
        rehearse(parts, adapted, schedule)
    return planned


def survey_remarks(parts: Parts) -> list[str]:
    """What the survey of own data says, where it takes no more than moments."""
    if parts.task.name != CUSTOM or sum(map(len, parts.data.splits.values())) > SURVEYED:
        return []
    return remarks(*survey(parts))


def search_overhead(parts: Parts, schedule: Schedule) -> float:
    """Percent of the training's multiply-adds that the search adds (see ``lorakit.searching.cost_model``)."""
    search = parts.recipe.search
    if not schedule.ticks:
        return 0.0
    allocator = allocators.get(search.method)
    cost_model = make_cost_model(parts, schedule)
    batch = cost_model.batch(*allocator.trains(search, cost_model))
    added = allocator.work(search, schedule.ticks, cost_model)
    return 100 * added / (schedule.total_steps * cost_model.accumulate * batch)


def rate_overhead(recipe: Recipe, schedule: Schedule) -> float:
    """Percent of the training's steps that finding a learning rate is worth."""
    if recipe.training.lr != AUTO:
        return 0.0
    rows_a_step = min(recipe.training.batch_size * recipe.training.accumulate, schedule.rows)
    in_steps = (
        steps_worth(rows_a_step) * recipe.training.accumulate / batches_a_step(recipe)
    )  # a trial's are the loss's own
    return 100 * in_steps / schedule.total_steps


def batches_a_step(recipe: Recipe) -> int:
    """Batches that a step passes forward and back, those of updates too."""
    beside = sum(kind.passes_a_step(kind.settings_from(given)) for kind, given in chosen_updates(recipe))
    return recipe.training.accumulate + beside


def make_cost_model(parts: Parts, schedule: Schedule) -> CostModel:
    """The arithmetic of a training, with the padding that the lengths of ``SAMPLE`` rows let expect."""
    search, training = parts.recipe.search, parts.recipe.training
    size, lengths = training.batch_size, sampled_lengths(parts)
    whole = -(-schedule.rows // size)
    scored = longest_rows(lengths, size, min(search.batches, whole))
    together = sorted_together(schedule.rows, size) if training.length_grouping else 1
    model, sites = parts.backbone.model, parts.backbone.anatomy.sites
    return CostModel(
        sites=parts.sites,
        ranks=[parts.rank_of(site) for site in parts.sites],
        layers=len(parts.backbone.anatomy.layers),
        frozen=sum(site.in_features * site.out_features for site in sites),
        parameters=number_count(model),
        tokens=size * mean(longest_rows(lengths, size, together)),
        scored=tuple(size * longest for longest in scored),
        share=min(parts.budget.parameters / max(sum(parts.costs.values()) + parts.shared_cost, 1), 1.0),
        steps=schedule.total_steps,
        accumulate=training.accumulate,
        below=frozen_layers(parts.recipe) / len(parts.backbone.anatomy.layers),
    )


def head_notes(parts: Parts, schedule: Schedule) -> list[str]:
    """What is found out of the head before the first step, and what that costs."""
    model, told = parts.recipe.model, []
    rows, number = min(len(parts.data.splits["train"]), FROZEN_ROWS), 1
    if model.readout == AUTO and not parts.backbone.head.kept:
        names = candidates(parts)
        found, number = ", ".join(names), 1 + (PAIR in names)
        told.append(
            f"what the head reads is decided before the first step, between {found}: by the loss of a linear model of the frozen "
            f"features over folds of {rows:,} training rows; the head above is the family's own"
        )
    if starts_fitted(parts):
        told.append(f"the head starts as a linear model of the frozen features of {rows:,} training rows")
    if told:
        passes = schedule.total_steps * batches_a_step(parts.recipe) * parts.recipe.training.batch_size
        share = 100 * number * rows / max(PASSES * passes, 1)
        times = "one forward pass" if number == 1 else "two forward passes"
        told[-1] += f" ({times} over them: about {share:.1f} % of the training)"
    return told


def freezing_notes(parts: Parts, schedule: Schedule) -> list[str]:
    """What becomes of the lower layers, and how much room their states take, by the lengths of ``SAMPLE`` rows."""
    training, count = parts.recipe.training, frozen_layers(parts.recipe)
    if training.freeze_below == AUTO:
        return [
            "how many layers are frozen is found before the first step: this is the plan of a training of all of them"
        ]
    if not count:
        return []
    rows = len(parts.data.splits["train"])
    kept = kept_bytes(sampled_lengths(parts), rows, parts.backbone, training.freeze_dtype)
    layers, size = len(parts.backbone.anatomy.layers), f"about {kept / GIB:.2f} GiB of disk"
    if schedule.total_steps <= schedule.steps_per_epoch:
        how = "every row is seen once, so nothing is kept"
    elif kept > training.freeze_cache * GIB:
        how = f"{size} are more than training.freeze_cache allows, so they run in every step"
    else:
        how = f"they run once a row, which takes {size}"
    return [f"{count} of {layers} layers are frozen: {how}"]


def sampled_lengths(parts: Parts) -> NDArray[np.int64]:
    """The tokens of about ``SAMPLE`` training rows."""
    rows = parts.data.splits["train"]
    sample = rows.select(range(0, len(rows), max(len(rows) // SAMPLE, 1)))
    return encode_rows(sample, parts.backbone, parts.cut, "train").lengths


def make_notes(parts: Parts, schedule: Schedule) -> list[str]:
    """What a person should know before starting."""
    told = [*parts.backbone.notes, f"data: {parts.data.origin}"]
    told += [f"expert {number}: {expert}" for number, expert in enumerate(parts.experts, 1)]
    search, rows = parts.recipe.search, len(parts.data.splits["train"])
    if schedule.rows < rows:
        told.append(
            f"{rows - schedule.rows:,} of {rows:,} training rows are set aside for an update: no step sees them"
        )
    if parts.max_length < parts.recipe.task.max_length:
        told.append(f"this model takes {parts.max_length} tokens at most: longer rows are cut there")
    if any(site.role == "qkv" for site in parts.sites):
        told.append("this family keeps q, k and v in one matrix: its site covers all three")
    init = inits.get(parts.linear.init)
    if init.needs in MEASURES:
        told.append(
            f"init '{init.name}' looks at {parts.recipe.adapter.init_batches} training batches before the first step"
        )
    if parts.recipe.model.quantization == MIXED and init.needs == "fisher":
        told.append(
            "how many bits a matrix gets will go by gradients of training rows: this plan goes by the weights alone"
        )
    if search.method != "none" and init.quantises:
        told.append(
            f"init '{init.name}': what the search closes leaves weights that were rounded without it, further from the model's"
        )
    if search.method != "none":
        told += allocators.get(search.method).cautions(search, schedule.total_steps)
    if search.method != "none" and allocators.get(search.method).by_proxy:
        proxy = proxies.get(search.proxy)
        told.append(f"{proxy.name} where B = 0: {proxy.at_zero}")
        if search.off == "freeze":
            told.append(
                "off: freeze keeps trained sites in the model: the budget bounds what trains, not what is carried"
            )
    told += freezing_notes(parts, schedule)
    if share := parts.recipe.training.average:
        steps = snapshot_steps(share, schedule.total_steps, max(map(parts.rank_of, parts.sites), default=1))
        told.append(
            f"the last weights will be the mean of {len(steps)} snapshots, of steps {steps[0]:,} to {steps[-1]:,}"
        )
        if schedule.ticks and schedule.ticks[-1] >= steps[0]:
            told.append(
                f"that mean begins anew where the search's ticks, up to step {schedule.ticks[-1]:,}, change what is on"
            )
    if parts.recipe.adapter.shortcuts and parts.recipe.adapter.shortcut_norm == "paper":
        told.append("shortcut_norm: paper applies norms twice: a fresh model is not exactly the pretrained one")
    return told
