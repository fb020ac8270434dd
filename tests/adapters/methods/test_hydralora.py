"""HydraLoRA (Tian et al. 2024): one A, N B and a router, rank in + N rank out + N in parameters; a token's update is in test_experts."""

from support.adapters.contract import contract

test_contract = contract(
    "hydralora", parameters=lambda rank, inside, outside: rank * inside + 4 * rank * outside + 4 * inside
)
