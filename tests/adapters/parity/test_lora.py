"""PEFT with the same weights: the same scale on each module, the same logits, the same gradients."""

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

FLAGS: dict[str, dict[str, Any]] = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}
THEIRS = {"A": "lora_A", "B": "lora_B", "magnitude": "lora_magnitude_vector"}


def peft_twin(adapted: AdaptedModel, model: torch.nn.Module, method: str, ranks: dict[str, int]) -> Any:
    """PEFT on the same pretrained model, with our adapter tensors copied in."""
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=list(adapted.adapters),
        rank_pattern=ranks,
        fan_in_fan_out=any(site.kind == "conv1d" for site in adapted.sites),
        **FLAGS[method],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model with Linear and Conv1D, or none: PEFT sets fan_in_fan_out itself
        twin = peft.get_peft_model(model, config).base_model.model.eval()
    for name, adapter in adapted.adapters.items():
        for key, tensor, _ in adapter.tensors():
            with torch.no_grad():
                theirs(twin, name, key).copy_(tensor)
    return twin


def theirs(twin: Any, site: str, key: str) -> torch.nn.Parameter:
    return getattr(twin.get_submodule(site), THEIRS[key])["default"].weight


@pytest.mark.parametrize("family", [*FAMILIES, "opt"])
@pytest.mark.parametrize("method", FLAGS)
def test_same_weights_same_logits_and_gradients(fresh: Fresh, family: str, method: str) -> None:
    backbone = fresh(family)
    ranks = {site.name: 2 for site in backbone.anatomy.sites[::3]}
    adapted = adapt(backbone, AdapterSection(method=method, rank=4, alpha=6), ranks=ranks)
    disturb(adapted)
    twin = peft_twin(adapted, fresh(family).model, method, ranks)
    batch = batch_for(adapted.model)

    for name, adapter in adapted.adapters.items():
        assert adapter.scale == twin.get_submodule(name).scaling["default"]
    assert_close(evaluated(adapted.model, batch), evaluated(twin, batch), rtol=1e-4, atol=1e-5)
    backward(adapted.model, batch)
    backward(twin, batch)
    for name, adapter in adapted.adapters.items():
        for key, tensor, _ in adapter.tensors():
            expected = theirs(twin, name, key).grad
            assert_close(tensor.grad, expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))


def test_dora_magnitudes_start_alike(fresh: Fresh) -> None:
    adapted = adapt(fresh("gpt2"), AdapterSection(method="dora", rank=4))
    config = peft.LoraConfig(r=4, target_modules=list(adapted.adapters), fan_in_fan_out=True, use_dora=True)
    twin = peft.get_peft_model(fresh("gpt2").model, config).base_model.model
    for name, adapter in adapted.adapters.items():
        assert_close(adapter.magnitude.detach(), theirs(twin, name, "magnitude").detach())
