"""PEFT's VB-LoRA with the same weights: the same logits, the same gradients."""

from __future__ import annotations

import warnings
from typing import Any

import peft
import pytest
import torch
from support.adapters.cases import FAMILIES, Fresh, adapt, backward, batch_for, disturb, evaluated
from torch.testing import assert_close

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.recipe.schema import AdapterSection

OPTIONS = {"vectors": "12", "length": "8", "top": "3"}
THEIRS = {"A": "vblora_logits_A", "B": "vblora_logits_B"}


def peft_twin(adapted: AdaptedModel, model: torch.nn.Module) -> Any:
    """PEFT on the same pretrained model, with our tensors copied in."""
    config = peft.VBLoRAConfig(
        r=4,
        num_vectors=12,
        vector_length=8,
        topk=3,
        target_modules=list(adapted.adapters),
        fan_in_fan_out=any(site.kind == "conv1d" for site in adapted.sites),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model with Linear and Conv1D, or none: PEFT sets fan_in_fan_out itself
        twin = peft.get_peft_model(model, config).base_model
    (held,) = adapted.shared.values()
    with torch.no_grad():
        twin.vblora_vector_bank["default"].copy_(held.get_parameter("bank"))
        for name, adapter in adapted.adapters.items():
            for key, tensor, _ in adapter.tensors():
                theirs(twin, name, key).copy_(tensor)
    return twin.eval()


def theirs(twin: Any, site: str, key: str) -> torch.nn.Parameter:
    return getattr(twin.model.get_submodule(site), THEIRS[key])["default"]


@pytest.mark.parametrize("family", [*FAMILIES, "opt"])
def test_same_weights_same_logits_and_gradients(fresh: Fresh, family: str) -> None:
    adapted = adapt(fresh(family), AdapterSection(method="vb_lora", rank=4, options=OPTIONS))
    disturb(adapted)
    twin = peft_twin(adapted, fresh(family).model)
    batch = batch_for(adapted.model)
    assert_close(evaluated(adapted.model, batch), evaluated(twin.model, batch), rtol=1e-4, atol=1e-5)

    backward(adapted.model, batch)
    backward(twin.model, batch)
    (held,) = adapted.shared.values()
    pairs = [(held.get_parameter("bank").grad, twin.vblora_vector_bank["default"].grad)]
    for name, adapter in adapted.adapters.items():
        pairs += [(tensor.grad, theirs(twin, name, key).grad) for key, tensor, _ in adapter.tensors()]
    for own, expected in pairs:
        assert_close(own, expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))


def test_starts_are_drawn_alike(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="vb_lora", rank=4, options=OPTIONS | {"vectors": "400"}))
    config = peft.VBLoRAConfig(r=4, num_vectors=400, vector_length=8, target_modules=list(adapted.adapters))
    twin = peft.get_peft_model(fresh("bert").model, config).base_model
    (held,) = adapted.shared.values()
    pairs = [(held.get_parameter("bank"), twin.vblora_vector_bank["default"])]
    name = next(iter(adapted.adapters))
    pairs += [(adapted.adapters[name].delta.get_parameter(key), theirs(twin, name, key)) for key in THEIRS]
    for own, expected in pairs:
        assert own.shape == expected.shape
        assert abs(own.std() / expected.std() - 1) < 0.05
        assert abs(own.mean()) < 0.1 * own.std()
