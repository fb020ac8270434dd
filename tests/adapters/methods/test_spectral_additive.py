"""Spectral Adapter, additive (Zhang and Pilanci 2024): LoRA's parameters, added to W's first singular vectors."""

from support.adapters.contract import contract

test_contract = contract("spectral_additive", parameters=lambda rank, inside, outside: rank * (inside + outside))
