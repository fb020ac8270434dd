"""``training.freeze_below``: the lower layers frozen, run once a row, and left out of every later step."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lorakit.adapters.method import methods
from lorakit.backbone.load import Backbone
from lorakit.backbone.lower_layers import KEY, LowerLayers
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AUTO, Recipe
from lorakit.tasks.batching import Encoded
from lorakit.training.frozen_states import DTYPES, FrozenStates, frozen_states
from lorakit.training.objective import Objective
from lorakit.training.schedule import Schedule
from lorakit.training.update import chosen_updates
from lorakit.workflow.calibrate import measure
from lorakit.workflow.parts import Parts
from lorakit.workflow.sites import above, choose_budget, frozen_layers

SHARE = 0.9
STREAM = "freeze/rows"

logger = logging.getLogger(__name__)


def freeze(parts: Parts, encoded: Encoded, objective: Objective, schedule: Schedule) -> FrozenStates | None:
    """The states of the training rows behind the layers that the recipe freezes; None where it freezes none."""
    settings, count = parts.recipe.training, frozen_layers(parts.recipe)
    if not count:
        return None
    check_padding(parts)
    states = frozen_states(
        LowerLayers(parts.backbone, count),
        encoded,
        objective,
        settings.freeze_dtype,
        limit=settings.freeze_cache,
        once=schedule.total_steps <= schedule.steps_per_epoch,
    )
    logger.info("layers below %d are frozen: %s", count, states.told)
    return states


def kept_bytes(lengths: NDArray[np.int64], rows: int, backbone: Backbone, dtype: str) -> int:
    """About how many bytes the states of ``rows`` rows take on disk, of which some have these ``lengths``."""
    numbers = DTYPES.get(dtype, backbone.model.dtype).itemsize * backbone.anatomy.hidden_size
    return int(lengths.mean() * rows * numbers)


def settle_block(parts: Parts, encoded: Encoded) -> None:
    """Where the recipe says auto: find how many layers to freeze; ``parts`` then has the sites above them, and the number in its recipe.

    The gain of a layer is the squared norm of the loss's mean gradient at the weights of its sites, over some training batches of the model
    with the head it starts from; frozen are as many lower layers as leave SHARE of all gains above.
    """
    recipe = parts.recipe
    if recipe.training.freeze_below != AUTO:
        return
    measured = measure(parts, encoded, "gradient", f"{KEY}: {AUTO}", STREAM)
    gains = np.zeros(len(parts.backbone.anatomy.layers))
    for site in parts.sites:
        if site.name in measured:
            gains[site.layer] += float(measured[site.name]["gradient"].square().sum())
    count = lower_part(gains)
    shares = " ".join(f"{share:.0%}" for share in gains / max(gains.sum(), np.finfo(float).tiny))
    logger.info("%s: %d of %d layers; of the gains they hold %s", KEY, count, len(gains), shares)
    parts.recipe = replace(recipe, training=replace(recipe.training, freeze_below=count))
    if count:
        parts.sites = above(parts.recipe, parts.backbone, parts.sites)
        parts.budget = choose_budget(
            parts.recipe, parts.sites, parts.linear, parts.shortcut, parts.ranks, parts.options
        )


def lower_part(gains: NDArray[np.float64]) -> int:
    """How many of the first layers leave at least SHARE of all gains to the others; 0 where there are no gains."""
    above = np.cumsum(gains[::-1])[::-1]
    return int(np.flatnonzero(above >= SHARE * above[0])[-1]) if above[0] > 0 else 0


def check_freezing(recipe: Recipe) -> None:
    """RecipeError where an update would reach into the tokens of the layers that are frozen, or auto has no gradients to look at."""
    if not recipe.training.freeze_below:
        return
    if recipe.training.freeze_below == AUTO and methods.get(recipe.adapter.method).block:
        raise RecipeError(
            f"method '{recipe.adapter.method}' is on no projections, whose gradients {AUTO} looks at",
            key=KEY,
            valid="a number of layers, or null",
        )
    for kind, _ in chosen_updates(recipe):
        if kind.sees_tokens:
            raise RecipeError(
                f"update '{kind.name}' changes what every layer computes in training, and these run once a row",
                key=KEY,
                valid="null with it",
            )


def check_padding(parts: Parts) -> None:
    """RecipeError where a row's states depend on its padding, or stand elsewhere than at the beginning of their line."""
    padding, config = parts.backbone.padding, parts.backbone.model.config
    if padding.left or padding.ours_alone or padding.equal or config.is_encoder_decoder:
        raise RecipeError(
            f"{config.model_type} models read a row with its padding, or from two sides: the states of its layers cannot be kept",
            key=KEY,
            valid="null with this model",
        )
