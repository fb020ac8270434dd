"""PEFT's GLoRA with the same weights: the same logits and the same gradients, with a bias and without."""

from __future__ import annotations

import itertools
from typing import Any

import peft
import pytest
import torch
from support.adapters.cases import Fresh, adapt, backward, batch_for, disturb, evaluated
from support.thinned import thinned
from torch.testing import assert_close

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.recipe.schema import AdapterSection

WORDS = {"scalar": "constant"}  # PEFT's name for it
CHOICES = ("lora", "vector", "scalar", "none"), ("lora", "vector", "none"), ("vector", "scalar", "none")
POINTS = [
    (family, *chosen)
    for family in ("bert", "llama")
    for chosen in itertools.product(*CHOICES)
    if set(chosen if family == "bert" else chosen[:1]) != {"none"}  # llama has no biases: there A and B are all
]


def peft_twin(adapted: AdaptedModel, model: torch.nn.Module, ab: str, c: str, de: str) -> Any:
    """PEFT on the same pretrained model, with our adapter tensors copied in."""
    config = peft.GloraConfig(
        r=3,
        target_modules=list(adapted.adapters),
        config_A_B=WORDS.get(ab, ab),
        config_C=c,
        config_D_E=WORDS.get(de, de),
    )
    twin = peft.get_peft_model(model, config).base_model.model.eval()
    for name, adapter in adapted.adapters.items():
        for key, tensor, _ in adapter.tensors():
            with torch.no_grad():
                other = theirs(twin, name, key)
                other.copy_(tensor.reshape(other.shape))
    return twin


def theirs(twin: Any, site: str, key: str) -> torch.nn.Parameter:
    path = getattr(twin.get_submodule(site), f"glora_{key[0]}")["default"]
    return path.X if hasattr(path, "X") else getattr(path, f"X{key[1]}")


@pytest.mark.parametrize(("family", "ab", "c", "de"), thinned(POINTS, 4))
def test_same_weights_same_logits_and_gradients(fresh: Fresh, family: str, ab: str, c: str, de: str) -> None:
    options = {"A": ab, "B": ab, "C": c, "D": de, "E": de}
    adapted = adapt(fresh(family), AdapterSection(method="glora", rank=3, options=options))
    disturb(adapted)
    adapted.model.double()
    twin = peft_twin(adapted, fresh(family).model.double(), ab, c, de)
    ours = sum(parameter.numel() for a in adapted.adapters.values() for parameter in a.parameters())
    assert ours == sum(p.numel() for name, p in twin.named_parameters() if "glora_" in name)

    batch = batch_for(adapted.model)
    assert_close(evaluated(adapted.model, batch), evaluated(twin, batch), rtol=1e-10, atol=1e-10)
    backward(adapted.model, batch)
    backward(twin, batch)
    largest = max(float(t.parameter.grad.abs().max()) for t in adapted.trained())  # a key's bias has none but rounding
    for name, adapter in adapted.adapters.items():
        for key, tensor, _ in adapter.tensors():
            expected = theirs(twin, name, key).grad
            assert_close(tensor.grad, expected.reshape(tensor.shape), rtol=1e-8, atol=1e-12 * largest)
