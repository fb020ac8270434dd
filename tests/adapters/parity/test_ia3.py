"""PEFT's IA3Config with the same weights: the same logits, gradients and merged weights."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch
from support.adapters.cases import FAMILIES, Fresh, adapt, backward, batch_for, disturb, evaluated
from torch.testing import assert_close

from lorakit.recipe.schema import AdapterSection


@pytest.mark.parametrize("targets", [["k", "v", "down"], ["all"]], ids=["paper", "all"])
@pytest.mark.parametrize("family", [*FAMILIES, "opt"])
def test_same_weights_same_logits_and_gradients(fresh: Fresh, family: str, targets: list[str]) -> None:
    adapted = adapt(fresh(family), AdapterSection(method="ia3"), targets=targets)
    disturb(adapted)
    conv1d = any(site.kind == "conv1d" for site in adapted.sites)
    config = peft.IA3Config(
        target_modules=list(adapted.adapters),
        feedforward_modules=[site.name for site in adapted.sites if site.role == "down"],
        fan_in_fan_out=conv1d,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = peft.get_peft_model(fresh(family).model, config).base_model.model.eval()
    theirs = {name: twin.get_submodule(name).ia3_l["default"] for name in adapted.adapters}
    batch = batch_for(adapted.model)

    for name, adapter in adapted.adapters.items():
        assert theirs[name].numel() == adapter.delta.l.numel()
        with torch.no_grad():
            theirs[name].copy_(adapter.delta.l.reshape(theirs[name].shape))
    assert_close(evaluated(adapted.model, batch), evaluated(twin, batch), rtol=1e-4, atol=1e-5)
    backward(adapted.model, batch)
    backward(twin, batch)
    for name, adapter in adapted.adapters.items():
        expected = theirs[name].grad.flatten()
        assert_close(adapter.delta.l.grad, expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_merged_weights_are_theirs(fresh: Fresh, family: str) -> None:
    adapted = adapt(fresh(family), AdapterSection(method="ia3"), targets=["k", "v", "down"])
    disturb(adapted)
    downs = [site.name for site in adapted.sites if site.role == "down"]
    config = peft.IA3Config(target_modules=list(adapted.adapters), feedforward_modules=downs)
    model = peft.get_peft_model(fresh(family).model, config)
    for name, adapter in adapted.adapters.items():
        theirs = model.base_model.model.get_submodule(name).ia3_l["default"]
        with torch.no_grad():
            theirs.copy_(adapter.delta.l.reshape(theirs.shape))
    plain = model.merge_and_unload()
    for name, adapter in adapted.adapters.items():
        adapter.fold()
        ours, theirs = adapted.model.get_submodule(name), plain.get_submodule(name)
        assert_close(ours.weight, theirs.weight)
        assert (ours.bias is None) == (theirs.bias is None)
        if ours.bias is not None:
            assert_close(ours.bias, theirs.bias)
