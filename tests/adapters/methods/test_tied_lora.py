"""Tied-LoRA (Renduchintala et al. 2023): r (in + out) parameters a group, and r + out a site."""

from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract

from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection


def of_groups(rank: int, sites: list[Site]) -> int:
    groups = {(site.role, site.in_features, site.out_features) for site in sites}
    return sum(rank * (inside + outside) for _, inside, outside in groups)


test_contract = contract("tied_lora", parameters=lambda rank, inside, outside: rank + outside, shared=of_groups)


def test_layers_share_and_roles_do_not(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="tied_lora", rank=3), targets=["q", "v", "down"])
    shared = {adapter.site.label: adapter.delta.shared for adapter in adapted.adapters.values()}
    assert len(shared) == 6
    assert len({id(held) for held in shared.values()}) == 3
    for role in ("q", "v", "down"):
        assert shared[f"0.{role}"] is shared[f"1.{role}"]
