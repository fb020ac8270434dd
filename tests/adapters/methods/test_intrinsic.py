"""Intrinsic dimension (Li et al. 2018; Aghajanyan et al. 2020): d numbers for the whole model, the layers' scalars among them."""

from __future__ import annotations

import pytest
from support.adapters.cases import Fresh, adapt, batch_for, disturb, evaluated
from support.adapters.contract import contract
from torch.testing import assert_close

from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

LAYERS = 2
test_contract = contract("intrinsic", parameters=lambda site: 0, shared=lambda rank, sites: rank, rank=11)


@pytest.mark.parametrize(("per_layer", "scalars"), [("true", LAYERS), ("false", 0)])
def test_d_numbers_train_whatever_is_adapted(fresh: Fresh, per_layer: str, scalars: int) -> None:
    for targets in (["all"], ["v"]):
        section = AdapterSection(method="intrinsic", rank=20, options={"per_layer": per_layer})
        adapted = adapt(fresh("bert"), section, targets=targets)
        assert adapted.adapter_parameters() == 20
        trained = {tensor.name: tensor.parameter.numel() for tensor in adapted.trained() if tensor.site is None}
        found = {name.removeprefix("shared.all."): size for name, size in trained.items() if name.startswith("shared")}
        assert found == {"z": 20 - scalars} | ({"lambdas": scalars} if scalars else {})


def test_scalars_alone_are_no_subspace(fresh: Fresh) -> None:
    with pytest.raises(RecipeError, match="2 layers") as caught:
        adapt(fresh("bert"), AdapterSection(method="intrinsic", rank=LAYERS))
    assert caught.value.problems[0].valid == "3 or more"


def test_in_double_it_is_switched_as_it_is_in_single(fresh: Fresh) -> None:
    """All that it trains is shared, so that the precision to compute in is that of its directions."""
    adapted = adapt(fresh("bert"), AdapterSection(method="intrinsic"))
    disturb(adapted)
    batch = batch_for(adapted.model)
    single = evaluated(adapted.model, batch)
    adapted.model.double()
    adapted.switch([])
    adapted.switch(adapted.adapters)
    assert_close(evaluated(adapted.model, batch), single.double(), rtol=1e-4, atol=1e-5)


def test_directions_are_in_no_checkpoint(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="intrinsic"))
    assert not [name for name in adapted.model.state_dict() if ".adapter." in name]
