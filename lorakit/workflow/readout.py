"""``model.readout: auto``: what the head reads is decided once, before a training, and from there on the recipe says it.

Every read-out that the model can have is scored by what logistic regression on its features of the frozen model costs over folds of the
training rows. The choice depends on data and model alone, not on the run's seed: what a family draws before its output layer is drawn
for it from a seed of its own (``parts.load_model``).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np
from accelerate.utils import broadcast_object_list

from lorakit.artifacts.readout_file import ReadoutChoice
from lorakit.backbone.head import output_names
from lorakit.backbone.readout import OWN, PAIR, READOUT_KEY, READOUTS, width_of
from lorakit.errors import RecipeError
from lorakit.recipe.keys import recipe_keys
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.rules import OF_WHOLE_ROWS
from lorakit.recipe.schema import AUTO
from lorakit.tasks.linear_probe import probe
from lorakit.workflow.accelerator import this_process
from lorakit.workflow.frozen_features import labels_looked_at, output_layer, training_features
from lorakit.workflow.parts import Features, Parts, load_model, start_at_frequencies
from lorakit.workflow.same_data import run_of
from lorakit.workflow.sites import choose_budget

logger = logging.getLogger(__name__)


def settle_readout(loaded: LoadedRecipe, parts: Parts) -> tuple[LoadedRecipe, Parts, ReadoutChoice | None]:
    """The recipe with its read-out decided, the parts of that, and the choice; as they are where the recipe decides it itself."""
    if loaded.recipe.model.readout != AUTO:
        return loaded, parts, None
    process = this_process()
    found = [decide(parts) if process.is_main_process else None]
    if process.num_processes > 1:
        broadcast_object_list(found)
    (choice,) = found
    if choice is None:
        raise ValueError("the main process decided nothing")
    logger.info("%s: %s", READOUT_KEY, choice)
    model = replace(loaded.recipe.model, readout=choice.chosen)
    decided = replace(loaded, recipe=replace(loaded.recipe, model=model))
    return decided, read_out_so(parts, decided), choice


def read_out_so(parts: Parts, loaded: LoadedRecipe) -> Parts:
    """The parts with the model loaded anew for the read-out of ``loaded``, from the run's own seed, without the sites that it dropped.

    Features are kept where that changes none of them.
    """
    backbone = load_model(loaded.recipe, parts.task)
    start_at_frequencies(backbone, parts.data)
    drawn = set(backbone.new_parts).difference(output_names(backbone.model, backbone.new_parts))
    kept = {name: found for name, found in parts.features.items() if name != OWN or not drawn}
    strengths = {name: found for name, found in parts.strengths.items() if name in kept}
    there = {name for name, _ in backbone.model.named_modules()}
    sites = [site for site in parts.sites if not site.is_module or site.name in there]
    budget = choose_budget(loaded.recipe, sites, parts.linear, parts.shortcut, parts.ranks, parts.options)
    return replace(
        parts,
        recipe=loaded.recipe,
        backbone=backbone,
        sites=sites,
        budget=budget,
        features=kept,
        strengths=strengths,
    )


def decide(parts: Parts) -> ReadoutChoice:
    """Which read-out; told of it is the loss of each candidate."""
    measure = "squared error" if parts.task.regression else "log-loss"
    if parts.backbone.head.kept:
        return ReadoutChoice(OWN, {}, measure, 0, "it is what the trained head reads that the checkpoint brings")
    if (start := parts.recipe.adapter.start) and parts.recipe.adapter.start_head:
        run = run_of(Path(start))
        own = OWN if run is None else load_recipe(run.recipe).recipe.model.readout
        return ReadoutChoice(own, {}, measure, 0, f"it is what the head of {start} reads")
    features = training_features(parts, *candidates(parts))
    labels = labels_looked_at(parts)
    logger.info("%s: comparing %s over folds", READOUT_KEY, ", ".join(features))
    losses: dict[str, float] = {}
    for name, found in features.items():
        twin = name != OWN and is_same(found, features.get(OWN))  # XLM's own head is one on the first token
        probed = None if found is None or twin else probe(found, labels, parts.task)
        if probed is not None:
            losses[name] = probed.loss
            if probed.strength is not None:
                parts.strengths[name] = probed.strength
    if not losses:
        return ReadoutChoice(OWN, {}, measure, len(labels), "there are too few training rows to compare others with it")
    return ReadoutChoice(min(losses, key=losses.__getitem__), losses, measure, len(labels))


def is_same(found: Features | None, own: Features | None) -> bool:
    """Whether the family's own head reads just that."""
    return found is not None and own is not None and np.array_equal(found, own)


def candidates(parts: Parts) -> list[str]:
    """The read-outs that a model, loaded with its family's own, can have; its own first, where that has an output layer to fit."""
    found = []
    for name in (OWN, *READOUTS):
        if name == PAIR and not takes_apart(parts):
            continue
        try:
            if name == OWN:
                output_layer(parts)
            else:
                width_of(parts.backbone.model, READOUTS[name], parts.backbone.tokenizer, parts.backbone.name)
        except RecipeError:
            continue
        found.append(name)
    return found


def takes_apart(parts: Parts) -> bool:
    """Whether rows have two texts, and nothing in the recipe needs both in one."""
    told = ((attrgetter(path)(parts.recipe), recipe_keys()[path].default) for path in OF_WHOLE_ROWS)
    return parts.task.pair and all(value in (False, default) for value, default in told)
