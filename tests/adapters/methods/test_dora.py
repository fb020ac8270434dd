"""DoRA (Liu et al. 2024): LoRA's parameters and a magnitude a row, whose formulas stand in test_adapter.py."""

import torch
from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract

from lorakit.recipe.schema import AdapterSection

test_contract = contract("dora", parameters=lambda rank, inside, outside: rank * (inside + outside) + outside)


def test_the_magnitude_starts_at_the_norm_of_each_output_row(fresh: Fresh) -> None:
    adapted = adapt(fresh("gpt2"), AdapterSection(method="dora"), targets=["down"])
    for name, adapter in adapted.adapters.items():
        stored = adapted.model.get_submodule(name).weight  # Conv1D: (in, out)
        torch.testing.assert_close(adapter.magnitude.detach(), torch.linalg.vector_norm(stored, dim=0))


def test_shortcuts_have_no_magnitude(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="dora"), targets=["q"], shortcuts=["res1"])
    roles = {adapter.site.role: [role for _, _, role in adapter.tensors()] for adapter in adapted.adapters.values()}
    assert roles == {"q": ["A", "B", "magnitude"], "res1": ["A", "B"]}
