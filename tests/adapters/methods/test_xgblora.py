"""xgblora: a booster's tensors train, at rank 1 by default; restarts are tested in tests/training/updates."""

from support.adapters.contract import contract

test_contract = contract("xgblora", parameters=lambda rank, inside, outside: rank * (inside + outside))
