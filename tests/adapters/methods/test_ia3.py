"""(IA)3 (Liu et al. 2022): a number for each output, or for each input of the MLP's second projection."""

from support.adapters.contract import contract

test_contract = contract("ia3", parameters=lambda site: site.in_features if site.role == "down" else site.out_features)
