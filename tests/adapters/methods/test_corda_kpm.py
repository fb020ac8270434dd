"""CorDA (Yang et al. 2024): LoRA's parameters, from what the inputs use least of W."""

from support.adapters.contract import contract

test_contract = contract("corda_kpm", parameters=lambda rank, inside, outside: rank * (inside + outside))
