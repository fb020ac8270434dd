"""LoRETTA-adp (Yang et al. 2024): Houlsby's bottleneck with both of its matrices as tensor trains."""

from adapters.methods.test_loretta_rep import train
from support.adapters.contract import contract

test_contract = contract(
    "loretta_adp",
    parameters=lambda rank, inside, outside: train(rank, outside, 5) + train(outside, rank, 5) + rank + outside,
)
