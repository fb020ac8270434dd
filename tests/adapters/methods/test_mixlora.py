"""MixLoRA (Shen et al. 2024): two pools of E vectors and three routers a site, E (3 in + out + rank in) parameters."""

from __future__ import annotations

import torch
from support.adapters.cases import Fresh, adapt, batch_for, disturb, evaluated, hooks
from support.adapters.contract import contract
from torch.testing import assert_close

from lorakit.recipe.schema import AdapterSection

test_contract = contract(
    "mixlora", parameters=lambda rank, inside, outside: 16 * (3 * inside + outside + rank * inside)
)


def test_a_row_does_not_depend_on_its_padding_or_the_other_rows(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="mixlora"))
    disturb(adapted)
    batch = batch_for(adapted.model)
    together = evaluated(adapted.model, batch)
    alone = evaluated(adapted.model, {name: tensor[1:, :5] for name, tensor in batch.items()})
    assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)
    bare = evaluated(adapted.model, {"input_ids": batch["input_ids"][1:, :5]})
    assert_close(bare, alone, rtol=1e-4, atol=1e-5)
    longer = evaluated(adapted.model, {"input_ids": batch["input_ids"][1:]})  # its padding is text now
    assert not torch.allclose(longer, alone, rtol=1e-3, atol=1e-3)


def test_the_mask_is_noted_only_while_a_site_is_on(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="mixlora"))
    assert hooks(adapted.model) == 1
    adapted.switch([])
    assert hooks(adapted.model) == 0
