"""FLoRA (Si et al. 2024): in r + out r + r^2 parameters a matrix."""

from support.adapters.contract import contract

test_contract = contract("flora", parameters=lambda rank, inside, outside: inside * rank + outside * rank + rank * rank)
