"""VB-LoRA (Li et al. 2024): h rank (in + out) / l logits a site, and a bank of h l numbers for all of them."""

import pytest
import torch
from support.adapters.cases import Fresh, adapt, batch_for, evaluated
from support.adapters.contract import contract

from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

OPTIONS = {"vectors": "10", "length": "8", "top": "2"}
test_contract = contract(
    "vb_lora",
    parameters=lambda rank, inside, outside: 10 * rank * (inside + outside) // 8,
    shared=lambda rank, sites: 10 * 8,
    options=OPTIONS,
)


def test_it_starts_near_the_pretrained_model(fresh: Fresh) -> None:
    backbone = fresh("bert", shared=True)
    batch = batch_for(backbone.model)
    before = evaluated(backbone.model, batch)
    after = evaluated(adapt(fresh("bert"), AdapterSection(method="vb_lora", options=OPTIONS)).model, batch)
    assert 0 < (after - before).abs().max() < 0.01 * before.abs().max()


def test_a_length_that_does_not_divide_is_refused_with_those_that_do(fresh: Fresh) -> None:
    with pytest.raises(RecipeError, match="pieces of 24") as caught:
        adapt(fresh("gpt2"), AdapterSection(method="vb_lora", options={"length": "24"}))
    assert "16, 8, 4, 2, 1 would do" in str(caught.value) or "32, 16, 8, 4, 2, 1 would do" in str(caught.value)


def test_a_bank_smaller_than_a_mixture_is_refused(fresh: Fresh) -> None:
    with pytest.raises(RecipeError, match="top=3"):
        adapt(fresh("gpt2"), AdapterSection(method="vb_lora", options={"length": "8", "vectors": "2", "top": "3"}))


def test_one_bank_serves_all_sites(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="vb_lora", options=OPTIONS))
    banks = {id(adapter.delta.shared) for adapter in adapted.adapters.values()}
    assert len(banks) == 1
    (held,) = adapted.shared.values()
    assert held.get_parameter("bank").shape == (10, 8)
    assert held.get_parameter("bank").abs().max() <= 0.02
    logits = torch.cat([adapter.delta.A.flatten() for adapter in adapted.adapters.values()])
    assert abs(logits.std() - 0.1) < 0.01
