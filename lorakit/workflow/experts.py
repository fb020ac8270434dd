"""``adapter.experts``: the finished runs whose adapters a recipe's mixture is made of, opened and checked before anything is built."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.centroid_experts import CentroidExperts
from lorakit.adapters.method import resolve
from lorakit.artifacts.base_function import check_over
from lorakit.artifacts.correction import corrected
from lorakit.artifacts.experts import KEY, Expert, highest_ranks
from lorakit.artifacts.peft.translate import placed
from lorakit.artifacts.run import Run
from lorakit.backbone.load import Backbone
from lorakit.backbone.lower_layers import KEY as FREEZE_KEY
from lorakit.backbone.readout import MEAN
from lorakit.backbone.shared import SharedBackbone
from lorakit.errors import LorakitError, Problem, RecipeError
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.schema import Recipe
from lorakit.tasks.task import TaskData
from lorakit.workflow.combine.members import updates_of
from lorakit.workflow.frozen_features import training_features
from lorakit.workflow.one_backbone import base_name, check_as_loaded, open_finished
from lorakit.workflow.parts import Parts
from lorakit.workflow.plain_lora import low_rank_factors
from lorakit.workflow.restore import RestoredRun, restore_run, same_labels
from lorakit.workflow.same_data import check_same_base, check_same_data
from lorakit.workflow.setup import assemble

logger = logging.getLogger(__name__)


def assemble_with_experts(
    loaded: LoadedRecipe, data: TaskData | None = None, *, measured: bool = False
) -> tuple[LoadedRecipe, Parts]:
    """``assemble`` for a recipe that is about to be trained: with its experts, and the sites and ranks that these have.

    measured: with the centroids of their texts too, where the mixture weighs by them; else it is only seen that these could be had. A
    recipe that names no runs is as it was. Raises RecipeError for a mixture that takes none, and for what does not go with them;
    UsageError and RunError for runs that are not finished, over another model, or whose updates are not of low rank.
    """
    named = loaded.recipe.adapter.experts
    if not named:
        return loaded, assemble(loaded, data)
    with loaded.locating_errors():
        by_texts = deltas.get(resolve(loaded.recipe.adapter).delta) is CentroidExperts
        if problems := [*beside_experts(loaded.recipe)]:
            raise RecipeError(problems)
        shared = SharedBackbone()
        runs = [open_finished(Path(name)) for name in named]
        if len({run.path.resolve() for run in runs}) < len(runs):
            raise RecipeError("a run is named more than once", key=KEY, valid="runs that are not the same")
        opened = [open_expert(run, loaded.recipe, shared, by_texts=by_texts, measured=measured) for run in runs]
        experts = [expert for expert, _ in opened]
        loaded = settled(loaded, experts, opened[0][1])
    parts = assemble(loaded, data)
    with loaded.locating_errors():
        for run in runs:
            check_same_base(run, parts.backbone)
    parts.experts = experts
    return loaded, parts


def beside_experts(recipe: Recipe) -> Iterator[Problem]:
    """What of the recipe does not go with experts from finished runs."""
    adapter = recipe.adapter
    for key, given, why, valid in (
        ("adapter.start", adapter.start, "names a start, and the experts are one", "null"),
        ("adapter.shortcuts", adapter.shortcuts, "adds adapters beside the experts'", "[]"),
        ("adapter.in_full", adapter.in_full, "trains weights that the experts stand on", "[]"),
        (
            FREEZE_KEY,
            recipe.training.freeze_below,
            "runs lower layers once a row, without the experts' sites there",
            "null",
        ),
    ):
        if given:
            yield Problem(why, key=key, valid=f"{valid} with {KEY}")


def open_expert(
    run: Run, recipe: Recipe, shared: SharedBackbone, *, by_texts: bool, measured: bool
) -> tuple[Expert, Backbone]:
    """The expert that the run's adapter is, and the model that it stands on; shared: with those of the other experts.

    by_texts: whether its training rows are needed, and ``measured``: what the frozen model makes of them.
    """
    if corrected(run):
        what = f"the adapters of {run.path} hold what quantising lost, which is no update"
        raise RecipeError(what, key=KEY, valid="the run that was quantised")
    own = load_recipe(run.recipe).recipe
    check_as_loaded(run, own)
    here, there = ((base_name(each), each.model.revision) for each in (recipe, own))
    if here != there:
        names = [" at ".join(filter(None, each)) for each in (there, here)]
        what = f"{run.path} is a run over {names[0]}, and this recipe's model is {names[1]}"
        raise RecipeError(what, key=KEY, valid="runs over the recipe's own model")
    restored = restore_run(run.path, None, with_data=False, shared=shared)
    backbone = restored.parts.backbone
    for note in check_over(recipe, backbone.model.config, run.path, KEY):
        logger.warning("%s: %s", run.path, note)
    updates = low_rank_factors(updates_of(restored, "an expert"), restored, ", as experts are")
    if not updates:
        raise RecipeError(f"{run.path} has no adapter in its function", key=KEY, valid="runs that have one")
    centroid = centroid_of(restored, measured=measured) if by_texts else None
    return Expert(run.path, restored.weights, restored.parts.task.known_as, updates, centroid), backbone


def centroid_of(restored: RestoredRun, *, measured: bool) -> torch.Tensor | None:
    """(width,) The mean over the run's training rows of the mean state of their tokens in the frozen model; None where it is not measured.

    The run's adapters are off from then on. RecipeError where the rows are not there as they were.
    """
    run = restored.run
    try:
        data = same_labels(run, restored.loaded, ["train"])
        check_same_data(run, data, ["train"])
    except LorakitError as error:
        what = f"{run.path} is weighed by its texts, and these cannot be had: {error.problems[0].what}"
        hint = "put back what it was trained on; or adapter.method=x_lora, which needs no texts"
        raise RecipeError(what, key=KEY, valid="runs whose training rows are there as they were", hint=hint) from error
    if not measured:
        return None
    restored.adapted.switch([])
    features = training_features(replace(restored.parts, data=data), MEAN)[MEAN]
    if features is None:
        name = restored.loaded.recipe.model.name
        raise RecipeError(f"{name} has no mean state of a text", key="adapter.method", valid="x_lora, on this model")
    return torch.from_numpy(features).double().mean(dim=0)


def settled(loaded: LoadedRecipe, experts: Sequence[Expert], backbone: Backbone) -> LoadedRecipe:
    """The recipe with the sites and ranks of its experts. RecipeError where it has an allocation that is not theirs."""
    adapter = loaded.recipe.adapter
    ranks = highest_ranks(experts, [site.name for site in backbone.anatomy.sites])
    section = placed(backbone, [site for site in backbone.anatomy.sites if site.name in ranks], ranks, adapter.method)
    if adapter.allocation and adapter.allocation != ranks:
        what = f"gives other ranks, or sites, than the {len(experts)} experts have"
        raise RecipeError(what, key="adapter.allocation", valid=f"none with {KEY}: it is found in the runs")
    if {"adapter.targets", "adapter.rank"} & loaded.places.keys() and adapter.allocation != ranks:
        logger.info(
            "adapter.targets and adapter.rank have no effect: the %d sites and their ranks are the experts'", len(ranks)
        )
    found = replace(adapter, targets=section.targets, rank=section.rank, allocation=ranks)
    return replace(loaded, recipe=replace(loaded.recipe, adapter=found))
