"""TriLoRA: B diag(g) A, a LoRA with one more number a rank."""

from support.adapters.contract import contract

test_contract = contract("trilora", parameters=lambda rank, inside, outside: rank * (inside + outside) + rank)
