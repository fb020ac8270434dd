"""LoRA (Hu et al. 2021): rank (in + out) parameters a matrix, s = alpha / rank."""

from support.adapters.contract import contract

from lorakit.adapters.method import resolve
from lorakit.recipe.schema import AdapterSection

test_contract = contract("lora", parameters=lambda rank, inside, outside: rank * (inside + outside))


def test_its_scale_is_alpha_over_rank() -> None:
    assert resolve(AdapterSection(method="lora", alpha=16)).scale_at(8) == 2.0
