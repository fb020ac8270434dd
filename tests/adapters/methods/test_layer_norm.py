"""LayerNorm tuning: a weight and, in a LayerNorm but not in an RMSNorm, a bias for each hidden unit."""

from support.adapters.contract import contract

test_contract = contract("layer_norm", parameters=lambda site: site.out_features * len(site.parameters))
