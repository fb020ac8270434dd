"""CorDA (Yang et al. 2024): LoRA's parameters, from what the inputs use most of W."""

from support.adapters.contract import contract

test_contract = contract("corda_ipm", parameters=lambda rank, inside, outside: rank * (inside + outside))
