"""LoRA-MoE: E LoRAs a site and a router, E rank (in + out) + E in parameters; what a token gets is checked in test_experts."""

from support.adapters.contract import contract

test_contract = contract("lora_moe", parameters=lambda rank, inside, outside: 8 * (rank * (inside + outside) + inside))
test_contract_of_the_most_probable_two = contract(
    "lora_moe",
    every=4,
    parameters=lambda rank, inside, outside: 3 * (rank * (inside + outside) + inside),
    families=("bert",),
    options={"experts": "3", "top_k": "2"},
)
