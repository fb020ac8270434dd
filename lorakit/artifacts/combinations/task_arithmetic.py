"""Task arithmetic: task vectors added to the pretrained weights (Ilharco et al. 2023, arXiv 2212.04089, section 2).

t = lambda sum_i t_i        lambda = 0.3 where no weights are given; a negative weight makes the model forget
Not checked against the authors' code, which was not read: follows section 2 of the paper.
"""

from lorakit.artifacts.combination import Combination, combinations, weighted_sum

combinations.register(
    Combination(
        "task_arithmetic",
        "0.3 times the sum of the updates",
        "Ilharco et al. 2023, arXiv 2212.04089",
        weighted_sum,
        weight=0.3,
    ),
)
