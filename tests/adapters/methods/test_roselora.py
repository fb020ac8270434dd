"""roselora: LoRA's tensors; what goes on during training is tested in tests/training/updates."""

from support.adapters.contract import contract

test_contract = contract("roselora", parameters=lambda rank, inside, outside: rank * (inside + outside))
