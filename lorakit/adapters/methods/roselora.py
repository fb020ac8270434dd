"""RoseLoRA: row- and column-wise sparse LoRA (Wang et al. 2024, arXiv 2406.10777).

    dW = s B A        each column of B and each row of A keeps a share of its entries, 5 % in the end; s = alpha / rank

rank (in + out) parameters a site train and are announced; keep * that are not zero in the end. Merges exactly, and the merged update is
sparse too: each rank touches few rows and few columns. The pruning is the update `rose` (`lorakit show rose`): its settings are
adapter.update_options keep, beta, begin and settle. The shares of the run in which nothing is pruned (first 10 %) or no more
than before (last 30 %) are ours; the authors count them in steps of an editing task.
Not checked against the authors' code, which was not reached: follows the method section of the paper. A third party's was read.
When to use it: where an update should change few weights, as in editing what a model knows.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="roselora",
        title="Row- and column-wise sparse LoRA",
        summary="LoRA whose A is pruned within rows and B within columns while it trains",
        source="Wang et al. 2024, arXiv 2406.10777",
        alpha=32.0,
        updates=("rose",),
    ),
)
