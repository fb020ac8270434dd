"""delta_lora: LoRA's tensors train; the pushes are tested in tests/training/updates."""

from support.adapters.contract import contract

test_contract = contract("delta_lora", parameters=lambda rank, inside, outside: rank * (inside + outside))
