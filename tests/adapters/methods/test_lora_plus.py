"""LoRA+ (Hayou et al. 2024): LoRA in every way but the learning rate of B."""

from dataclasses import replace

from support.adapters.contract import contract

from lorakit.adapters.method import resolve
from lorakit.recipe.schema import AdapterSection

test_contract = contract("lora_plus", parameters=lambda rank, inside, outside: rank * (inside + outside))


def test_b_learns_sixteen_times_as_fast_unless_told_otherwise() -> None:
    lora = resolve(AdapterSection(method="lora"))
    assert resolve(AdapterSection(method="lora_plus")) == replace(lora, lr_ratio=16.0)
    assert resolve(AdapterSection(method="lora_plus", lr_ratio=4)).lr_ratio == 4
    assert lora.lr_ratio == 1
