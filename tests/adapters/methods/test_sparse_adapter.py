"""sparse_adapter: LoRA's tensors; what goes on during training is tested in tests/training/updates."""

from support.adapters.contract import contract

test_contract = contract("sparse_adapter", parameters=lambda rank, inside, outside: rank * (inside + outside))
