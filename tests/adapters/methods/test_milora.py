"""MiLoRA (Wang et al. 2024): LoRA's parameters, from the minor part of W."""

from support.adapters.contract import contract

test_contract = contract("milora", parameters=lambda rank, inside, outside: rank * (inside + outside))
