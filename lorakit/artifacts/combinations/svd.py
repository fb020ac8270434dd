"""The weighted sum, cut to the largest rank among the adapters (PEFT's `svd`).

t = sum_i w_i t_i,  then its nearest matrix of that rank, from its singular value decomposition
Checked against PEFT's code.
"""

from lorakit.artifacts.combination import Combination, combinations, weighted_sum

combinations.register(
    Combination(
        "svd", "the weighted sum, cut to the largest rank", "PEFT, combination_type svd", weighted_sum, rank="max"
    ),
)
