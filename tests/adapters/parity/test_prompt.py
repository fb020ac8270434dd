"""PEFT's prompt tuning and P-tuning: the same virtual tokens, the same states of the text, the same gradients.

PEFT counts the text's positions from the virtual tokens' end. That is no difference where positions are rotary; where a table gives
them, all its rows are made alike here. PEFT's encoders pool a virtual token, and its decoders the last token, padding or not: logits
are compared for decoders and rows without padding.
"""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from support.adapters.cases import Fresh, adapt, batch_for, disturb, evaluated
from torch import nn
from torch.testing import assert_close

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.backbone.load import Backbone
from lorakit.recipe.schema import AdapterSection

N = 3
TABLES = {"gpt2": "wpe", "opt": "decoder.embed_positions"}
ENCODERS = ("bert", "roberta", "deberta", "deberta_v2")
DECODERS = ("gpt2", "opt", "gpt_neox", "llama", "mistral", "qwen2", "gemma", "gemma2")
CONFIGS = {"prompt_tuning": peft.PromptTuningConfig, "p_tuning": peft.PromptEncoderConfig}
LAYERS = ("mlp_head.0", "mlp_head.2", "mlp_head.4")


def placeless(backbone: Backbone, family: str) -> Backbone:
    """The same model with every position alike, where a table gives them."""
    name = TABLES.get(family, "embeddings.position_embeddings" if family in ENCODERS else "")
    if name:
        weight = backbone.model.base_model.get_submodule(name).weight
        with torch.no_grad():
            weight.copy_(weight[5].clone().expand_as(weight))
    return backbone


def twin_of(adapted: AdaptedModel, model: nn.Module, method: str) -> tuple[Any, dict[str, nn.Parameter]]:
    """PEFT with our tensors copied in, and what it calls them."""
    twin = peft.get_peft_model(model, CONFIGS[method](task_type="SEQ_CLS", num_virtual_tokens=N)).eval()
    encoder = twin.prompt_encoder["default"]
    theirs = {"embeddings": encoder.embedding.weight}
    if method == "p_tuning":
        for number, layer in enumerate(LAYERS, start=1):
            theirs |= {
                f"W{number}": encoder.get_submodule(layer).weight,
                f"b{number}": encoder.get_submodule(layer).bias,
            }
    (adapter,) = adapted.adapters.values()
    with torch.no_grad():
        for name, tensor, _ in adapter.tensors():
            theirs[name].copy_(tensor)
    return twin, theirs


@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
@pytest.mark.parametrize("method", CONFIGS)
def test_same_weights_same_states_and_gradients(fresh: Fresh, family: str, method: str) -> None:
    adapted = adapt(placeless(fresh(family), family), AdapterSection(method=method, rank=N))
    disturb(adapted)
    twin, theirs = twin_of(adapted, placeless(fresh(family), family).model, method)
    batch = batch_for(adapted.model)

    ours = adapted.model.base_model(**batch).last_hidden_state
    expected = twin(**batch, output_hidden_states=True).hidden_states[-1][:, N:]
    real = batch["attention_mask"].bool()  # nobody reads the states of padding
    assert_close(ours[real], expected[real], rtol=1e-4, atol=1e-4)
    weights = torch.randn(ours[real].shape, generator=torch.Generator().manual_seed(2))
    (ours[real] * weights).sum().backward()
    (expected[real] * weights).sum().backward()
    (adapter,) = adapted.adapters.values()
    for name, tensor, _ in adapter.tensors():
        gradient = theirs[name].grad
        assert gradient.any()
        assert_close(tensor.grad, gradient, rtol=1e-3, atol=float(2e-4 * gradient.abs().max()))


@pytest.mark.parametrize("family", DECODERS)
def test_same_logits_of_rows_without_padding(fresh: Fresh, family: str) -> None:
    adapted = adapt(placeless(fresh(family), family), AdapterSection(method="prompt_tuning", rank=N))
    disturb(adapted)
    twin, _ = twin_of(adapted, placeless(fresh(family), family).model, "prompt_tuning")
    batch = {name: tensor[:1] for name, tensor in batch_for(adapted.model).items()}
    assert_close(evaluated(adapted.model, batch), evaluated(twin, batch), rtol=1e-4, atol=1e-4)
