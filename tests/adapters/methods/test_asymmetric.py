"""Asymmetric LoRA (Zhu et al. 2024): A orthonormal and frozen, rank * out parameters a matrix."""

import torch
from support.adapters.cases import Fresh, adapt, backward, batch_for
from support.adapters.contract import contract
from torch.testing import assert_close

from lorakit.recipe.schema import AdapterSection

test_contract = contract("asymmetric", parameters=lambda rank, inside, outside: rank * outside)


def test_every_site_has_orthonormal_rows_of_its_own(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="asymmetric", rank=4))
    thin = [adapter.delta.A.detach() for adapter in adapted.adapters.values()]
    for a in thin:
        assert_close(a @ a.T, torch.eye(4), atol=1e-5, rtol=0)
    assert len({tuple(a.flatten().tolist()) for a in thin}) == len(thin)


def test_a_stays_as_it_was(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="asymmetric", rank=4), targets=["q"])
    before = {name: tensor.clone() for name, tensor in adapted.tensors().items()}
    backward(adapted.model, batch_for(adapted.model))
    torch.optim.SGD([p for p in adapted.model.parameters() if p.grad is not None], lr=0.1).step()
    moved = {name.rpartition(".")[2] for name, now in adapted.tensors().items() if not torch.equal(now, before[name])}
    assert moved & {"A", "B"} == {"B"}
