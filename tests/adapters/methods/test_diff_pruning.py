"""Diff pruning (Guo et al. 2021): a number and a gate for each weight."""

from __future__ import annotations

import torch
from support.adapters.cases import Fresh, adapt, batch_for, disturb, logits
from support.adapters.contract import contract

from lorakit.recipe.schema import AdapterSection

test_contract = contract("diff_pruning", parameters=lambda rank, inside, outside: 2 * inside * outside)


def test_gates_are_drawn_in_training_only(fresh: Fresh) -> None:
    adapted = adapt(fresh("gpt2"), AdapterSection(method="diff_pruning"))
    model, batch = adapted.model, batch_for(adapted.model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    disturb(adapted)
    assert torch.equal(logits(model, batch), logits(model, batch))
    model.train()
    assert not torch.equal(logits(model, batch), logits(model, batch))
    adapted.switch([], off="freeze")
    assert torch.equal(logits(model, batch), logits(model, batch))
