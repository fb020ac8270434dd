"""LoRETTA-adp (Yang et al. 2024): Houlsby's bottleneck with both of its matrices as tensor trains."""

from support.adapters.contract import contract
from support.adapters.tensor_trains import train

test_contract = contract(
    "loretta_adp",
    parameters=lambda rank, inside, outside: train(rank, outside, 5) + train(outside, rank, 5) + rank + outside,
)
