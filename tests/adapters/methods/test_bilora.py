"""bilora: a singular value form; which rows its parts learn on is tested in tests/training/updates."""

from support.adapters.contract import contract

test_contract = contract("bilora", parameters=lambda rank, inside, outside: rank * (inside + outside + 1))
