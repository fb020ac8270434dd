"""AutoLoRA's adapter: a LoRA whose shares are not the optimiser's."""

from support.adapters.contract import contract

test_contract = contract("autolora", parameters=lambda rank, inside, outside: rank * (inside + outside))
