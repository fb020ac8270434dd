"""``model.rope_scaling``: rotary positions divided by a factor, linear position interpolation (Chen et al. 2023, arXiv 2306.15595).

A token at place t of its row is turned as one at place t / factor was in pretraining, so that rows of factor times as many tokens stay
within the positions that the model knows. It is transformers' own ``rope_type: linear`` in the configuration, and goes into that of a
merged folder.
"""

from __future__ import annotations

import math
from typing import Any

from lorakit.errors import RecipeError
from lorakit.recipe.schema import AUTO

KEY = "model.rope_scaling"
DEFAULT, LINEAR = "default", "linear"


def scale_positions(config: Any, tokenizer: Any, given: float | str | None, longest: int | None) -> str:
    """Divide the rotary positions of a model that is loaded from ``config`` as the recipe says, and let the tokenizer make rows as long.

    longest: tokens of the longest row, by which ``auto`` is found: ``longest`` over what the model was pretrained on, rounded up, as the
    authors of LongLoRA do. Returns what a person should know of it; mostly nothing. Raises RecipeError (key ``model.rope_scaling``) for a
    model without rotary positions, or one that has scaled ones.
    """
    text = config.get_text_config()
    known: Any = getattr(text, "max_position_embeddings", None)
    rope: Any = getattr(text, "rope_parameters", None)
    plain = isinstance(rope, dict) and rope.get("rope_type") == DEFAULT and isinstance(known, int)
    if given is None:
        rows = 0 if longest is None else min(longest, tokenizer.model_max_length)
        return (
            f"rows of up to {rows:,} tokens are longer than the {known:,} that this model was pretrained on: {KEY}={AUTO} divides their "
            "positions"
            if plain and rows > known
            else ""
        )
    if not plain:
        why = (
            "has no rotary positions"
            if not rope
            else "has rotary positions that are scaled already, or not the same in all layers"
        )
        raise RecipeError(f"this {config.model_type} model {why}: there is nothing to divide", key=KEY, valid="null")
    factor = divisor(given, longest, config)
    if factor == 1:
        return ""
    text.rope_parameters = {**rope, "rope_type": LINEAR, "factor": factor}
    tokenizer.model_max_length = max(tokenizer.model_max_length, int(factor * known))
    return f"rotary positions are divided by {factor:g}: {known:,} of them serve rows of {int(factor * known):,} tokens"


def divisor(given: float | str | None, longest: int | None, config: Any) -> float:
    """By what ``model.rope_scaling`` divides the positions of a model with this configuration; 1 where it does not.

    ``auto`` divides by what rows of ``longest`` tokens need.
    """
    if not isinstance(given, str):
        return float(given or 1)
    known: int = config.get_text_config().max_position_embeddings
    return float(max(math.ceil((longest or 0) / known), 1))


def divides(config: Any) -> bool:
    """Whether the rotary positions of a model with this configuration are divided."""
    rope: Any = getattr(config.get_text_config(), "rope_parameters", None)
    return isinstance(rope, dict) and rope.get("rope_type") == LINEAR
