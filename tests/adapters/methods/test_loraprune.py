"""loraprune: LoRA's tensors train; the pruning is tested in tests/training/updates."""

from support.adapters.contract import contract

test_contract = contract("loraprune", parameters=lambda rank, inside, outside: rank * (inside + outside))
