"""SVDiff (Han et al. 2023): one number a singular value, and none of them below zero."""

from __future__ import annotations

import torch
from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract
from torch.testing import assert_close

from lorakit.recipe.schema import AdapterSection

test_contract = contract("svdiff", parameters=lambda rank, inside, outside: min(inside, outside))


def test_a_large_negative_shift_empties_the_weight(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="svdiff"))
    for adapter in adapted.adapters.values():
        weight = adapter.base_weight().detach()
        with torch.no_grad():
            adapter.delta.d.fill_(-100.0)
            assert_close(adapter.effective_weight(weight), torch.zeros_like(weight), rtol=0, atol=1e-5)
