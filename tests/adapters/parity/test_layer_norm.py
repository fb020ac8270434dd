"""PEFT's LNTuningConfig with the same weights: the same logits, the same gradients."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch
from support.adapters.cases import FAMILIES, Fresh, adapt, backward, batch_for, disturb, evaluated
from torch.testing import assert_close

from lorakit.recipe.schema import AdapterSection


@pytest.mark.parametrize("family", [*FAMILIES, "opt"])
def test_same_weights_same_logits_and_gradients(fresh: Fresh, family: str) -> None:
    adapted = adapt(fresh(family), AdapterSection(method="layer_norm"))
    disturb(adapted)
    config = peft.LNTuningConfig(target_modules=list(adapted.adapters))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT calls every norm an unsupported layer
        twin = peft.get_peft_model(fresh(family).model, config).base_model.model.eval()
    theirs = {
        (name, key): getattr(twin.get_submodule(name).ln_tuning_layers["default"], key)
        for name, adapter in adapted.adapters.items()
        for key, _, _ in adapter.tensors()
    }
    trained = {id(p) for name, p in twin.named_parameters() if p.requires_grad and "ln_tuning_layers" in name}
    assert trained == {id(parameter) for parameter in theirs.values()}
    batch = batch_for(adapted.model)

    with torch.no_grad():
        for (name, key), parameter in theirs.items():
            parameter.copy_(adapted.adapters[name].delta.get_parameter(key))
    assert_close(evaluated(adapted.model, batch), evaluated(twin, batch), rtol=1e-4, atol=1e-5)
    backward(adapted.model, batch)
    backward(twin, batch)
    for (name, key), parameter in theirs.items():
        own = adapted.adapters[name].delta.get_parameter(key).grad
        assert_close(own, parameter.grad, rtol=1e-3, atol=float(1e-4 * parameter.grad.abs().max()))
