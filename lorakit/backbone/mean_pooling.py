"""``model.pooling: mean``: a head of its own on the mean of the last hidden states, in place of the family's.

    logits = W mean_t(h_t) + b        h (tokens, width) without padding, W (labels, width)

Encoders of sentences were trained so that this mean tells what a sentence says (Reimers and Gurevych 2019, Sentence-BERT, section 3);
their first token, which BERT's own head reads, was not.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from lorakit.errors import RecipeError

POOLING_KEY = "model.pooling"
DEFAULT, MEAN = "default", "mean"
HEAD = "mean_head"


def read_mean(model: Any, name: str) -> list[str]:
    """Give a classifier of transformers a new head on the mean of its tokens, drop its own, and name what was dropped.

    Raises RecipeError (key ``model.pooling``) for models without one state for each token of the text.
    """
    config, base = model.config.get_text_config(), model.base_model
    if base is model or model.config.is_encoder_decoder:
        raise unfit(name, "this architecture has no states of the text's tokens alone")
    dropped = [
        f"{part}.{key}"
        for part, child in model.named_children()
        if child is not base
        for key, _ in child.named_parameters()
    ]
    for part in [part for part, child in model.named_children() if child is not base]:
        del model._modules[part]
    if isinstance(getattr(base, "pooler", None), nn.Module):
        prefix = model.base_model_prefix
        dropped += [f"{prefix}.pooler.{key}" for key, _ in base.pooler.named_parameters()]
        base.pooler = None
    head = nn.Linear(config.hidden_size, model.config.num_labels)
    head.to(next(base.parameters()).dtype)
    setattr(model, HEAD, head)
    model._init_weights(head)
    model.forward = MethodType(forward, model)
    check(model, name)
    return dropped


def forward(model: Any, attention_mask: torch.Tensor, **inputs: Any) -> SequenceClassifierOutput:
    """The logits (rows, labels) of a batch."""
    states = model.base_model(attention_mask=attention_mask, **inputs).last_hidden_state
    mask = attention_mask[..., None].to(states.dtype)
    return SequenceClassifierOutput(logits=getattr(model, HEAD)((states * mask).sum(1) / mask.sum(1)))


@torch.no_grad()
def check(model: Any, name: str) -> None:
    """Raise RecipeError where the base model does not give a state for each token."""
    tokens = torch.ones(1, 3, dtype=torch.long)
    width = getattr(model, HEAD).in_features
    try:
        states = model.base_model(input_ids=tokens, attention_mask=tokens).last_hidden_state
    except Exception as error:  # whatever a family's code says of a call that it does not know
        raise unfit(name, f"it cannot be asked for its states: {type(error).__name__}") from error
    if states.shape != (1, 3, width):
        raise unfit(name, "it does not give a state for each token")


def unfit(name: str, why: str) -> RecipeError:
    """A RecipeError about a model whose tokens have no mean."""
    return RecipeError(
        f"the tokens of '{name}' cannot be averaged: {why}",
        key=POOLING_KEY,
        valid=DEFAULT,
        hint=f"{POOLING_KEY}={DEFAULT}",
    )
