"""OLoRA (Büyükakyüz 2024): LoRA's parameters, from W's QR decomposition."""

from support.adapters.contract import contract

test_contract = contract("olora", parameters=lambda rank, inside, outside: rank * (inside + outside))
