"""relora: LoRA's tensors train, one pair at a time; restarts are tested in tests/training/updates."""

from support.adapters.contract import contract

test_contract = contract("relora", parameters=lambda rank, inside, outside: rank * (inside + outside))
