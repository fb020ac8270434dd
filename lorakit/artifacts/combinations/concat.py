"""The weighted sum kept in factored form, the ranks added up (PEFT's `cat`).

    B = [w_1 B_1, w_2 B_2, ...],  A = [A_1; A_2; ...]        B A = sum_i w_i B_i A_i

The same function as `linear`; no matrix of the weight's size is built, and an update that has no factors is refused.
Checked against PEFT's code.
"""

from lorakit.artifacts.combination import Combination, combinations, weighted_sum

combinations.register(
    Combination(
        "concat", "the weighted sum, factors side by side", "PEFT, combination_type cat", weighted_sum, factors=True
    ),
)
