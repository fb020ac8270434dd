"""rsLoRA (Kalajdzievski 2023): LoRA's parameters, s = alpha / sqrt(rank)."""

from support.adapters.contract import contract

from lorakit.adapters.method import resolve
from lorakit.recipe.schema import AdapterSection

test_contract = contract("rslora", parameters=lambda rank, inside, outside: rank * (inside + outside))


def test_its_scale_is_alpha_over_the_root_of_the_rank() -> None:
    assert resolve(AdapterSection(method="rslora", alpha=16)).scale_at(64) == 2.0
