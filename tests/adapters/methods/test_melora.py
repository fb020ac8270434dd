"""MELoRA (Ren et al. 2024): n small LoRAs of rank r have r (in + out) parameters and reach rank n r."""

import pytest
import torch
from support.adapters.cases import Fresh, adapt, disturb
from support.adapters.contract import contract

from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

test_contract = contract("melora", parameters=lambda rank, inside, outside: rank * (inside + outside))
test_contract_of_four = contract(
    "melora",
    every=4,
    parameters=lambda rank, inside, outside: rank * (inside + outside),
    families=("gpt2",),
    options={"minis": "4"},
)


def test_the_update_has_n_times_the_rank(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="melora", rank=2, options={"minis": "4"}))
    disturb(adapted)
    ranks = {int(torch.linalg.matrix_rank(adapter.delta.dense())) for adapter in adapted.adapters.values()}
    assert ranks == {4 * 2}


@pytest.mark.parametrize(
    ("rank", "minis", "reason"), [(2, 5, "do not fall into 5 slices"), (9, 4, "thinner than rank")]
)
def test_slices_that_do_not_fit_are_refused(fresh: Fresh, rank: int, minis: int, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        adapt(fresh("bert"), AdapterSection(method="melora", rank=rank, options={"minis": str(minis)}), targets=["q"])
