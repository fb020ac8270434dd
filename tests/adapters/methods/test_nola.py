"""NOLA (Koohpayegani et al. 2024): 2 k coefficients a site, and random matrices that no checkpoint holds."""

import torch
from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract

from lorakit.recipe.schema import AdapterSection

test_contract = contract("nola", parameters=lambda site: 2 * 6, options={"bases": "6"})


def test_as_many_coefficients_at_any_rank(fresh: Fresh) -> None:
    counts = {
        rank: adapt(fresh("bert"), AdapterSection(method="nola", rank=rank)).adapter_parameters() for rank in (1, 8)
    }
    sites = len(fresh("bert", shared=True).anatomy.sites)
    assert counts == {1: sites * 2 * 64, 8: sites * 2 * 64}


def test_random_matrices_are_in_no_checkpoint(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="nola"))
    assert {name.rpartition(".")[2] for name in adapted.tensors() if name.startswith("bert.")} == {"a", "b"}
    assert not [name for name in adapted.model.state_dict() if "bases" in name or name.endswith("a_0")]


def test_sites_have_random_matrices_of_their_own(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="nola"), targets=["q"])
    first, second = (adapter.delta for adapter in adapted.adapters.values())
    assert first.a_bases.shape == second.a_bases.shape
    assert not torch.isclose(first.a_bases, second.a_bases).any(dim=0).all()
    assert not torch.equal(first.a_0, second.a_0)
