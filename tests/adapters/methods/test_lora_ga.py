"""LoRA-GA (Wang et al. 2024): LoRA's parameters, from the gradient's singular vectors."""

from support.adapters.contract import contract

test_contract = contract("lora_ga", parameters=lambda rank, inside, outside: rank * (inside + outside))
