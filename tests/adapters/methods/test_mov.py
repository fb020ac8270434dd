"""MoV (Zadouri et al. 2023): E vectors and a router as wide as what they rescale, 2 E width parameters a site."""

from __future__ import annotations

import pytest
import torch
from support.adapters.cases import Fresh, adapt, batch_for, disturb, evaluated
from support.adapters.contract import contract
from torch import nn
from torch.testing import assert_close

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.method import resolve
from lorakit.adapters.switching import ON
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection

test_contract = contract(
    "mov", parameters=lambda site: 20 * (site.in_features if site.role == "down" else site.out_features)
)


@pytest.mark.parametrize("role", ["v", "down"])
def test_each_token_is_rescaled_by_its_own_mixture(role: str) -> None:
    torch.manual_seed(0)
    base = nn.Linear(5, 7).double().requires_grad_(False)
    spec = resolve(AdapterSection(method="mov", options={"experts": "3"}))
    adapter = Adapter(Site("m", 0, role, 5, 7, "linear"), spec, 1, base).double()
    for _, tensor, _ in adapter.tensors():
        nn.init.normal_(tensor.data)
    adapter.switch(ON)
    x, (vectors, router) = torch.randn(4, 5, dtype=torch.float64), (t.detach() for _, t, _ in adapter.tensors())
    for token, out in zip(x, base(x), strict=True):
        read = token if role == "down" else base.weight @ token + base.bias
        chances = (router @ read).exp()
        factor = sum(chance / chances.sum() * vector for chance, vector in zip(chances, vectors, strict=True))
        assert_close(out, base.weight @ (factor * token) + base.bias if role == "down" else factor * read)


def test_a_router_that_does_not_choose_is_ia3_with_the_mean_vector(fresh: Fresh) -> None:
    mixed = adapt(fresh("bert"), AdapterSection(method="mov"))
    single = adapt(fresh("bert"), AdapterSection(method="ia3"))
    disturb(mixed)
    with torch.no_grad():
        for name, adapter in mixed.adapters.items():
            adapter.delta.R.zero_()
            single.adapters[name].delta.l.copy_(adapter.delta.l.mean(dim=0))
        for name in mixed.new_parts:
            single.tensors()[name].copy_(mixed.tensors()[name])
    batch = batch_for(mixed.model)
    assert_close(evaluated(mixed.model, batch), evaluated(single.model, batch))
