"""LoRA-FA (Zhang et al. 2023): A stays as it started, rank * out parameters a matrix."""

from dataclasses import replace

from support.adapters.contract import contract

from lorakit.adapters.method import resolve
from lorakit.recipe.schema import AdapterSection

test_contract = contract("lora_fa", parameters=lambda rank, inside, outside: rank * outside)


def test_all_else_is_lora() -> None:
    lora, own = (resolve(AdapterSection(method=method)) for method in ("lora", "lora_fa"))
    assert replace(own, trainable=lora.trainable) == lora
    assert [role for role in ("A", "B") if own.trains(role)] == ["B"]


def test_with_a_magnitude_b_and_the_magnitude_train() -> None:
    spec = resolve(AdapterSection(method="lora_fa", decomposition="magnitude"))
    assert [role for role in ("A", "B", "magnitude") if spec.trains(role)] == ["B", "magnitude"]
