"""SparseAdapter: a larger adapter, pruned before training (He et al. 2022, arXiv 2210.04284).

    dW = s (M_B * B) (M_A * A)        M: masks chosen once by a score, a quarter of all entries kept; s = alpha / rank

Here on LoRA, in the paper's Large-Sparse setting: rank 32 with a quarter kept has as many entries other than zero as rank 8.
rank (in + out) parameters a site are held and announced, pruned entries among them; keep * that are not zero. Merges exactly.
The pruning is the update `sparse_mask` (`lorakit show sparse_mask`): its settings are adapter.update_options keep, score and batches, and
adapter.updates: [sparse_mask] puts it on any other method with factors A and B. The paper prunes bottleneck adapters; LoRA is a host too.
Differs from the authors' code in: a quarter is kept, where its own default is half (which it calls sparsity); the scores, see
`sparse_mask`.
When to use it: where the number of entries in the file counts, not the memory of training.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="sparse_adapter",
        title="SparseAdapter on LoRA",
        summary="LoRA of a larger rank, pruned once before training by SNIP",
        source="He et al. 2022, arXiv 2210.04284",
        rank=32,
        alpha=64.0,
        updates=("sparse_mask",),
    ),
)
