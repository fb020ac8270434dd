"""Prefix tuning's MLP (Li and Liang 2021, section 4.3): a hidden layer for all, a matrix for each layer's keys and values."""

from support.adapters.contract import contract

H = 7

test_contract = contract(
    "prefix_mlp",
    parameters=lambda rank, keys, values: (keys + values) * H + keys + values,
    shared=lambda rank, sites: rank * sites[0].in_features + sites[0].in_features * H + H,
    options={"hidden": str(H)},
)
