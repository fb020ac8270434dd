"""LoRA-XS (Balazy et al. 2024): r^2 parameters a matrix, between W's frozen singular directions."""

import pytest
import torch
from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from lorakit.adapters.method import resolve
from lorakit.recipe.schema import AdapterSection

test_contract = contract("lora_xs", parameters=lambda rank, inside, outside: rank * rank)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_an_identity_core_gives_the_best_approximation_of_w(fresh: Fresh, family: str) -> None:
    adapted = adapt(fresh(family), AdapterSection(method="lora_xs", rank=3))
    for name, adapter in adapted.adapters.items():
        module = adapted.model.get_submodule(name)
        weight = module.weight.detach().T if isinstance(module, Conv1D) else module.weight.detach()
        assert not adapter.delta.dense().any()
        with torch.no_grad():
            adapter.delta.G.copy_(torch.eye(3))
        update = adapter.delta.dense()
        values = torch.linalg.svdvals(weight)
        assert torch.linalg.matrix_rank(update) == 3
        assert_close((weight - update).norm(), values[3:].norm(), rtol=1e-4, atol=1e-5)


def test_only_the_core_trains_and_a_magnitude_where_there_is_one() -> None:
    for decomposition in ("none", "magnitude"):
        spec = resolve(AdapterSection(method="lora_xs", decomposition=decomposition))
        assert [role for role in ("A", "B", "core", "magnitude") if spec.trains(role)] == ["core", "magnitude"]
