"""LQ-LoRA (Guo et al. 2023): LoRA's parameters, over weights that its start rounds; Conv1D modules cannot be."""

from support.adapters.contract import contract

test_contract = contract(
    "lq_lora",
    parameters=lambda rank, inside, outside: rank * (inside + outside),
    families=("bert", "llama", "opt_postnorm"),
)
