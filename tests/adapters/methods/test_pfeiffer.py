"""Pfeiffer et al. 2021: one bottleneck a layer, behind the MLP."""

import pytest
from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract

from lorakit.adapters.method import methods, resolve
from lorakit.recipe.schema import AdapterSection

test_contract = contract("pfeiffer", parameters=lambda m, inside, outside: 2 * m * outside + outside + m, rank=12)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "opt_postnorm"])
def test_one_adapter_a_layer(fresh: Fresh, family: str) -> None:
    adapted = adapt(fresh(family), AdapterSection(method="pfeiffer"), targets=methods.get("pfeiffer").targets)
    assert [(site.layer, site.role) for site in adapted.sites] == [(0, "down"), (1, "down")]


def test_its_activation_is_relu_unless_told_otherwise() -> None:
    assert dict(resolve(AdapterSection(method="pfeiffer")).options) == {"activation": "relu"}
    given = AdapterSection(method="pfeiffer", options={"activation": "silu"})
    assert dict(resolve(given).options) == {"activation": "silu"}
