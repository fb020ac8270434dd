"""X-LoRA: nothing of a site's own trains, and of the head E (width + 1) numbers; what PEFT makes of it is in parity."""

from __future__ import annotations

import pytest
import torch
from support.adapters.cases import Fresh, adapt, batch_for, disturb, evaluated, hooks
from support.adapters.contract import contract
from torch.testing import assert_close

from lorakit.adapters.deltas.scaled_experts import ScaledExperts, weights_of
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection


def width_of(sites: list[Site]) -> int:
    (width,) = {site.in_features for site in sites if site.role in ("q", "qkv")}
    return width


def two_layers(rank: int, sites: list[Site]) -> int:
    """W_in and W_out with their biases: two experts a site."""
    return (width_of(sites) + 1) * 5 + (5 + 1) * 2 * len(sites)


test_contract = contract(
    "x_lora",
    parameters=lambda rank, inside, outside: 0,
    shared=lambda rank, sites: 4 * (width_of(sites) + 1),
    families=("bert", "gpt2", "llama"),
)
test_contract_of_a_deep_head_by_site = contract(
    "x_lora",
    parameters=lambda rank, inside, outside: 0,
    shared=two_layers,
    families=("bert",),
    options={"experts": "2", "depth": "2", "size": "5", "scalings": "site", "top_k": "1"},
)


def test_a_row_does_not_depend_on_its_padding_or_the_other_rows(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="x_lora"))
    disturb(adapted)
    batch = batch_for(adapted.model)
    together = evaluated(adapted.model, batch)
    alone = evaluated(adapted.model, {name: tensor[1:, :5] for name, tensor in batch.items()})
    assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)


def test_the_first_pass_is_made_only_while_a_site_is_on(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="x_lora"))
    assert hooks(adapted.model) == 1
    adapted.switch([])
    assert hooks(adapted.model) == 0


def test_the_weights_are_a_softmax_whose_smaller_shares_are_left_out() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0]).log()
    assert_close(weights_of(logits, "all", 1.0, 0), torch.tensor([1, 3, 2]) / 6)
    assert_close(weights_of(logits, "all", 0.5, 2), torch.tensor([0, 9, 4]) / 14)
    assert_close(weights_of(logits, "top_k", 1.0, 2), torch.tensor([0, 3, 2]) / 5)
    assert_close(weights_of(logits, "none", 1.0, 1), torch.tensor([0, 3, 0]).log().nan_to_num(neginf=0.0))


def test_models_whose_last_states_are_not_those_of_its_layers_are_refused(fresh: Fresh) -> None:
    with pytest.raises(RecipeError, match="last states are 16 wide, and its layers' are 32"):
        adapt(fresh("opt_postnorm"), AdapterSection(method="x_lora"))
    backbone = fresh("bert")
    backbone.model.config.is_encoder_decoder = True
    with pytest.raises(RecipeError, match="the decoder's are last"):
        ScaledExperts.wiring(backbone.model, [])
