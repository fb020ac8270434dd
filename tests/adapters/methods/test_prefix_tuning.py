"""Prefix tuning (Li and Liang 2021): n keys and n values a layer, as wide as the layer's own."""

from support.adapters.contract import contract

test_contract = contract("prefix_tuning", parameters=lambda rank, keys, values: rank * keys + rank * values)
