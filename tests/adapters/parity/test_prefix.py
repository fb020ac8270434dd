"""PEFT's prefix tuning: the same keys and values, the same logits and gradients.

PEFT counts a text's positions from the prefix's end; here they are given to both, so that padded rows agree too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import peft
import pytest
import torch
from support.adapters.cases import Fresh, adapt, backward, batch_for, disturb, evaluated
from torch.testing import assert_close

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.recipe.schema import AdapterSection

N = 3
FAMILIES = (
    "bert",
    "electra",
    "roberta",
    "gpt2",
    "opt",
    "opt_postnorm",
    "gpt_neox",
    "llama",
    "mistral",
    "qwen2",
    "gemma",
    "gemma2",
)


def twin_of(model: Any, config: peft.PrefixTuningConfig) -> Any:
    """PEFT's own. It looks for a parameter that transformers 5.24 calls by another name, and still takes by the old one."""
    twin = peft.get_peft_model(model, config).eval()
    for module in (model, model.base_model):
        if "cache" in inspect.signature(module.forward).parameters:
            module.forward = partial(by_the_old_name, module.forward)
    return twin


def by_the_old_name(forward: Callable[..., Any], *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
    """A forward whose signature names ``past_key_values``."""
    return forward(*args, past_key_values=past_key_values, **kwargs)


def table(adapted: AdaptedModel, *, gradient: bool = False) -> torch.Tensor:
    """Our keys and values as PEFT's one table: n x (layer 0 keys, values, layer 1 keys, values, ...)."""
    tensors = [tensor for adapter in adapted.adapters.values() for _, tensor, _ in adapter.tensors()]
    return torch.cat([tensor.grad if gradient else tensor.detach() for tensor in tensors], dim=1)


def shifted(family: str, batch: dict[str, torch.Tensor], pad: int) -> torch.Tensor:
    """The positions that these models give a text behind N cached tokens, padding included."""
    mask = batch["attention_mask"]
    if family == "roberta":
        return (mask.cumsum(1) + N) * mask + pad
    if family.startswith("opt"):
        return (mask.cumsum(1) + N) * mask - 1
    return torch.arange(N, N + mask.shape[1]).expand_as(mask)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_weights_same_logits_and_gradients(fresh: Fresh, family: str) -> None:
    adapted = adapt(fresh(family), AdapterSection(method="prefix_tuning", rank=N))
    disturb(adapted)
    config = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=N)
    twin = twin_of(fresh(family).model, config)
    theirs = twin.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        theirs.copy_(table(adapted))
    batch = batch_for(adapted.model)
    moved = batch | {"position_ids": shifted(family, batch, adapted.model.config.pad_token_id)}

    assert_close(evaluated(adapted.model, moved), evaluated(twin, batch), rtol=1e-4, atol=1e-5)
    backward(adapted.model, moved)
    backward(twin, batch)
    assert theirs.grad.any()
    assert_close(table(adapted, gradient=True), theirs.grad, rtol=1e-3, atol=float(1e-4 * theirs.grad.abs().max()))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_the_same_network_in_front(fresh: Fresh, family: str) -> None:
    section = AdapterSection(method="prefix_mlp", rank=N, options={"hidden": "7"})
    adapted = adapt(fresh(family), section)
    disturb(adapted)
    config = peft.PrefixTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=N, prefix_projection=True, encoder_hidden_size=7
    )
    twin = twin_of(fresh(family).model, config)
    encoder = twin.prompt_encoder["default"]
    first, last = encoder.transform[0], encoder.transform[2]
    shared = adapted.shared["all"]
    own = [adapter.delta for adapter in adapted.adapters.values()]
    pairs = [
        (encoder.embedding.weight, [shared.embeddings]),
        (first.weight, [shared.W1]),
        (first.bias, [shared.b1]),
        (last.weight, [tensor for delta in own for tensor in (delta.Wk, delta.Wv)]),
        (last.bias, [tensor for delta in own for tensor in (delta.bk, delta.bv)]),
    ]
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.copy_(torch.cat(ours))
    batch = batch_for(adapted.model)
    moved = batch | {"position_ids": shifted(family, batch, adapted.model.config.pad_token_id)}

    assert_close(evaluated(adapted.model, moved), evaluated(twin, batch), rtol=1e-4, atol=1e-5)
    backward(adapted.model, moved)
    backward(twin, batch)
    for theirs, ours in pairs:
        assert theirs.grad.any()
        gradient = torch.cat([tensor.grad for tensor in ours])
        assert_close(gradient, theirs.grad, rtol=1e-3, atol=float(1e-4 * theirs.grad.abs().max()))
