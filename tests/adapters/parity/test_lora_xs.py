"""PEFT's LoRA with LoRA-XS folded into it, B' = B G: the same logits, and by the chain rule dL/dG = B^T dL/dB'."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch
from support.adapters.cases import FAMILIES, Fresh, adapt, backward, batch_for, disturb, evaluated
from torch.testing import assert_close

from lorakit.recipe.schema import AdapterSection

RANK, ALPHA = 4, 6


@pytest.mark.parametrize("family", FAMILIES)
def test_same_weights_same_logits_and_gradients(fresh: Fresh, family: str) -> None:
    adapted = adapt(fresh(family), AdapterSection(method="lora_xs", rank=RANK, alpha=ALPHA))
    disturb(adapted)
    conv1d = any(site.kind == "conv1d" for site in adapted.sites)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(adapted.adapters), fan_in_fan_out=conv1d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model with Linear and Conv1D: PEFT sets fan_in_fan_out itself
        twin = peft.get_peft_model(fresh(family).model, config).base_model.model.eval()
    layers = {name: twin.get_submodule(name) for name in adapted.adapters}
    with torch.no_grad():
        for name, adapter in adapted.adapters.items():
            layers[name].lora_A["default"].weight.copy_(adapter.delta.A)
            layers[name].lora_B["default"].weight.copy_(adapter.delta.B @ adapter.delta.G)
    batch = batch_for(adapted.model)

    assert_close(evaluated(adapted.model, batch), evaluated(twin, batch), rtol=1e-4, atol=1e-5)
    backward(adapted.model, batch)
    backward(twin, batch)
    for name, adapter in adapted.adapters.items():
        assert adapter.scale == layers[name].scaling["default"] == ALPHA / RANK
        expected = adapter.delta.B.T @ layers[name].lora_B["default"].weight.grad
        assert_close(adapter.delta.G.grad, expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))
        assert adapter.delta.A.grad is None
        assert adapter.delta.B.grad is None
