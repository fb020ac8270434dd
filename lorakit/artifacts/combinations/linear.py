"""The weighted sum of the updates.

    t = sum_i w_i t_i        w_i = 1/n where none are given

The updates are summed, not their factors: PEFT's `linear` sums A's and B's apart, (sum_i sqrt(w_i) B_i) (sum_j sqrt(w_j) A_j), and so adds
the cross terms B_i A_j of adapters that never met. The rank is the sum of the ranks, exactly.
"""

from lorakit.artifacts.combination import Combination, combinations, weighted_sum

combinations.register(Combination("linear", "the weighted sum of the updates, exactly", "", weighted_sum))
