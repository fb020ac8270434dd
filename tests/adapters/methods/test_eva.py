"""EVA (Paischer et al. 2024): LoRA's parameters, A from the inputs' principal components."""

from support.adapters.contract import contract

test_contract = contract("eva", parameters=lambda rank, inside, outside: rank * (inside + outside))
