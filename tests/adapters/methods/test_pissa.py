"""PiSSA (Meng et al. 2024): LoRA's parameters, from the principal part of W."""

from support.adapters.contract import contract

test_contract = contract("pissa", parameters=lambda rank, inside, outside: rank * (inside + outside))
