"""Full fine-tuning: everything outside the head, and the plain model's own gradients."""

from __future__ import annotations

import math

import pytest
import torch
from support.adapters.cases import FAMILIES, Fresh, adapt, backward, batch_for, disturb, evaluated
from support.adapters.contract import contract
from torch.testing import assert_close

from lorakit.adapters.adapted_model import HEAD
from lorakit.artifacts.merge import fold
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

FULL = AdapterSection(method="full")

test_contract = contract("full", parameters=lambda site: sum(math.prod(shape) for _, shape in site.parameters))


@pytest.mark.parametrize("family", [*FAMILIES, "deberta", "electra"])
def test_every_parameter_of_the_backbone_trains_once(fresh: Fresh, family: str) -> None:
    plain = fresh(family, shared=True)
    sizes = {name: parameter.numel() for name, parameter in plain.model.named_parameters()}
    adapted = adapt(fresh(family), FULL)
    assert {tensor.name: tensor.parameter.numel() for tensor in adapted.trained()} == sizes
    head = sum(sizes[name] for name in plain.new_parts)
    assert adapted.adapter_parameters() == sum(sizes.values()) - head
    assert any("embed" in site.name or "wte" in site.name for site in adapted.sites)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_plain_model(fresh: Fresh, family: str) -> None:
    plain = fresh(family).model.requires_grad_(True)
    adapted = adapt(fresh(family), FULL)
    batch = batch_for(plain)
    backward(plain, batch)
    backward(adapted.model, batch)
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    assert {t.name for t in adapted.trained() if t.parameter.grad is not None} == set(expected)
    for tensor in adapted.trained():
        assert_close(tensor.parameter.grad, expected[tensor.name], rtol=0, atol=0)


def test_folding_copies_and_leaves_a_plain_model(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), FULL)
    disturb(adapted)
    batch = batch_for(adapted.model)
    before = evaluated(adapted.model, batch)
    trained = {tensor.name: tensor.parameter.detach().clone() for tensor in adapted.trained() if tensor.role != HEAD}
    assert fold(adapted) == len(adapted.sites)
    plain = adapted.model.state_dict()
    assert set(plain) == set(fresh("bert", shared=True).model.state_dict())
    assert all(torch.equal(plain[name], value) for name, value in trained.items())
    assert torch.equal(evaluated(adapted.model, batch), before)


def test_tied_parameters_are_refused(fresh: Fresh) -> None:
    backbone = fresh("bert")
    layers = backbone.anatomy.layers
    layers[1][1].output.dense.weight = layers[0][1].output.dense.weight
    with pytest.raises(RecipeError, match=r"layer\.0\.output\.dense and .*layer\.1\.output\.dense have"):
        adapt(backbone, FULL)
    assert len(adapt(backbone, AdapterSection(method="bitfit")).sites) > 0
