"""P-tuning (Liu et al. 2021): n embeddings and three layers, the hidden ones as wide as the embeddings unless told otherwise."""

from support.adapters.contract import contract


def network(d: int, h: int) -> int:
    return d * h + h + h * h + h + h * d + d


test_contract = contract("p_tuning", parameters=lambda rank, d, same: rank * d + network(d, d))
test_contract_narrow = contract(
    "p_tuning",
    every=4,
    parameters=lambda rank, d, same: rank * d + network(d, 5),
    options={"hidden": "5"},
    families=("gpt2",),
)
