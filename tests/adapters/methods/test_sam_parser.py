"""SAM-PARSER (Peng et al. 2023): one number a singular value."""

from __future__ import annotations

import torch
from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract
from torch.testing import assert_close

from lorakit.recipe.schema import AdapterSection

test_contract = contract("sam_parser", parameters=lambda rank, inside, outside: min(inside, outside))


def test_the_adapted_weight_has_the_moved_singular_values(fresh: Fresh) -> None:
    adapted = adapt(fresh("gpt2"), AdapterSection(method="sam_parser"))
    for adapter in adapted.adapters.values():
        weight = adapter.base_weight().detach().double()
        with torch.no_grad():
            adapter.delta.d.fill_(0.25)
        new = torch.linalg.svdvals(adapter.double().effective_weight(weight).detach())
        assert_close(new, torch.linalg.svdvals(weight) + 0.25, rtol=1e-5, atol=1e-5)
