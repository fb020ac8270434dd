"""Gradient checkpointing: a layer keeps its input alone, and is computed a second time on the way back.

The layers do it themselves (transformers), as non-reentrant checkpoints: these need no input that wants gradients, which a frozen base
does not have, and draw the same dropout masks again. What is added here: a recomputed layer leaves nothing behind in what shortcuts
hold, and layers recompute while they are scored without dropout too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.blocks.shortcut import Held
from lorakit.errors import RecipeError

KEY = "training.gradient_checkpointing"


def recompute_layers(adapted: AdaptedModel) -> None:
    """Let every layer of the model recompute. Raises RecipeError (key ``training.gradient_checkpointing``) where it cannot."""
    model: Any = adapted.model
    held = adapted.shortcuts.held if adapted.shortcuts else []
    if (
        not model.supports_gradient_checkpointing
        or "value" in inspect.signature(model._set_gradient_checkpointing).parameters
    ):
        raise refusal(model)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False, "context_fn": partial(contexts, held)})
    except ValueError as error:
        raise refusal(model) from error
    model.disable_input_require_grads()  # embeddings that want gradients are for reentrant checkpoints


def refusal(model: nn.Module) -> RecipeError:
    """Why this model cannot."""
    return RecipeError(
        f"{type(model).__name__} has no layers that recompute (transformers: supports_gradient_checkpointing)",
        key=KEY,
        valid="false",
        hint="in less memory all the same: a smaller training.batch_size with training.accumulate, or training.precision=bf16",
    )


def contexts(held: Sequence[Held]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around a layer's forward pass, and around the one that repeats it."""
    return nullcontext(), restored(held)


@contextmanager
def restored(held: Sequence[Held]) -> Iterator[None]:
    """What is held afterwards is what was held before: what a repeated pass holds would keep all its activations."""
    before = [dict(each) for each in held]
    try:
        yield
    finally:
        for each, values in zip(held, before, strict=True):
            each.clear()
            each.update(values)


def recompute_in_eval_mode(model: nn.Module) -> None:
    """Put layers that recompute, and nothing in them, into training mode, without which they would not.

    Layers whose own forward asks for the mode (OPT's) stay as they are, and keep their activations.
    """
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            own = inspect.unwrap(type(module).forward)
            module.training = module.training or "training" not in own.__code__.co_names
