"""What a recipe makes of the base model, over which an adapter is trained: where two runs meet, both must have made the same.

Rounded weights are nearly the same function, and a difference is told. Divided positions are another one, and refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorakit.artifacts.correction import quantisation, run_of
from lorakit.backbone.rope_scaling import KEY as ROPE_SCALING
from lorakit.backbone.rope_scaling import divisor
from lorakit.errors import RecipeError, command_line
from lorakit.recipe.load import load_recipe
from lorakit.recipe.schema import ModelSection, Recipe


def weights_kept(model: ModelSection) -> str:
    """How the frozen weights are kept, in words: ``float32``, ``nf4 of bfloat16``."""
    rounded = quantisation(model)
    return f"{rounded} of {model.dtype}" if rounded else model.dtype


def positions_divided(recipe: Recipe, config: Any) -> float:
    """By what rotary positions are divided in a run of this recipe on a model with this configuration; 1 where they are not."""
    return divisor(recipe.model.rope_scaling, recipe.task.max_length, config)


def check_over(recipe: Recipe, config: Any, path: Path, key: str) -> list[str]:
    """What a person should know of the weights that the adapter in ``path`` was trained over, a sentence each; config: of this
    recipe's model.

    Raises RecipeError (``key``, which names the path) where its positions were divided by another number.
    """
    run = run_of(path)
    if run is None:
        return [f"nothing says over which weights the adapter in {path} was trained: it lies outside its run"]
    other = load_recipe(run.recipe).recipe
    here, there = positions_divided(recipe, config), positions_divided(other, config)
    if here != there:
        raise RecipeError(
            f"the adapter of {path} was trained over rotary positions divided by {there:g}, and here they are divided by {here:g}",
            key=key,
            valid=f"{ROPE_SCALING}={there:g}",
            hint=f"{command_line('merge', run.path)}, and the merged folder as model.name" if there == 1 else "",
        )
    if (ours := weights_kept(recipe.model)) != (theirs := weights_kept(other.model)):
        return [
            f"the adapter was trained over weights in {theirs}, and these are in {ours}: it starts from another loss"
        ]
    return []
