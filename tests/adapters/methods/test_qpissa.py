"""QPiSSA (Meng et al. 2024): LoRA's parameters, over a residual that its start rounds; Conv1D modules cannot be."""

from support.adapters.contract import contract

test_contract = contract(
    "qpissa",
    parameters=lambda rank, inside, outside: rank * (inside + outside),
    families=("bert", "llama", "opt_postnorm"),
)
