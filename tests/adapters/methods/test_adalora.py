"""AdaLoRA's adapter: B diag(g) A from a small Gaussian."""

from support.adapters.contract import contract

test_contract = contract("adalora", parameters=lambda rank, inside, outside: rank * (inside + outside) + rank)
