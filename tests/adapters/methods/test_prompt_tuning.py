"""Prompt tuning (Lester et al. 2021): n embeddings for the whole model."""

from support.adapters.contract import contract

test_contract = contract("prompt_tuning", parameters=lambda rank, width, same: rank * width)
test_contract_at_random = contract(
    "prompt_tuning",
    every=4,
    parameters=lambda rank, width, same: rank * width,
    options={"start": "random"},
    families=("gpt2",),
)
