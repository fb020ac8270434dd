"""PEFT's X-LoRA over the same trained adapters, with the same head: the same logits, and the same gradients of the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from support.adapters.cases import Fresh, adapt, backward, batch_for, disturb, evaluated
from torch.testing import assert_close

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.recipe.schema import AdapterSection

EXPERTS, RANK, ALPHA = 3, 2, 5.0


@pytest.fixture(scope="module")
def loras(fresh: Fresh, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """PEFT's name of each LoRA -> its folder."""
    folders = {}
    for number in range(EXPERTS):
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "down_proj"])
        model: Any = peft.get_peft_model(fresh("llama").model, config)
        generator = torch.Generator().manual_seed(number)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(generator=generator).mul_(0.3)
        folder: Path = tmp_path_factory.mktemp("lora")
        model.save_pretrained(folder)
        folders[str(number)] = str(folder)
    return folders


def twin_of(adapted: AdaptedModel, model: torch.nn.Module, loras: dict[str, str], **config: Any) -> Any:
    """PEFT's X-LoRA with our head; its LoRAs are put into ours."""
    model.config.use_cache = False
    width = model.config.hidden_size
    twin: Any = peft.get_peft_model(model, peft.XLoraConfig(hidden_size=width, adapters=loras, **config)).double()
    twin.base_model.internal_xlora_classifier.double().dtype = torch.float64
    (shared,) = adapted.shared.values()
    layers = twin.base_model.internal_xlora_classifier.layers
    with torch.no_grad():
        for name, tensor, _ in shared.tensors():
            theirs(layers, name).copy_(tensor.reshape(theirs(layers, name).shape))
        for name, adapter in adapted.adapters.items():
            module = model.get_submodule(name)
            pairs = [(module.lora_B[e].weight * ALPHA / RANK, module.lora_A[e].weight) for e in loras]
            adapter.delta.put_in(pairs)
    return twin.eval()


def theirs(layers: torch.nn.Sequential, name: str) -> torch.nn.Parameter:
    """The layer of PEFT's head that is ours of this name: relu and dropout stand between layers."""
    place = {"in": 0, "mid": 3, "out": -1}[name[2:]]
    return layers[place].weight if name.startswith("W") else layers[place].bias


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({}, {}),
        ({"scalings": "site", "temperature": 0.5}, {"layerwise_scalings": True, "softmax_temperature": 0.5}),
        ({"depth": 3, "size": 5, "top_k": 2}, {"xlora_depth": 3, "xlora_size": 5, "top_k_lora": 2}),
        (
            {"softmax": "top_k", "top_k": 2},
            {"enable_softmax": False, "enable_softmax_topk": True, "top_k_lora": 2},
        ),
        ({"softmax": "none"}, {"enable_softmax": False}),
    ],
    ids=["defaults", "by site", "deep", "softmax of top 2", "no softmax"],
)
def test_same_weights_same_logits_and_gradients(
    fresh: Fresh, loras: dict[str, str], options: dict[str, Any], config: dict[str, Any]
) -> None:
    given = {name: str(value) for name, value in {"experts": EXPERTS, **options}.items()}
    section = AdapterSection(method="x_lora", rank=RANK, options=given)
    adapted = adapt(fresh("llama"), section, targets=("q", "down"))
    disturb(adapted)
    adapted.model.double()
    twin = twin_of(adapted, fresh("llama").model.double(), loras, **config)

    batch = batch_for(adapted.model)
    assert_close(evaluated(adapted.model, batch), evaluated(twin, batch), rtol=1e-10, atol=1e-10)
    backward(adapted.model, batch)
    backward(twin, batch)
    (shared,) = adapted.shared.values()
    for name, tensor, _ in shared.tensors():
        expected = theirs(twin.base_model.internal_xlora_classifier.layers, name).grad
        assert tensor.grad is not None
        assert_close(tensor.grad, expected.reshape(tensor.shape), rtol=1e-8, atol=1e-10)
