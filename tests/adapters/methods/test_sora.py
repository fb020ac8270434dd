"""SoRA's adapter: B diag(g) A with B = 0 and random gates at start."""

from support.adapters.contract import contract

test_contract = contract("sora", parameters=lambda rank, inside, outside: rank * (inside + outside) + rank)
