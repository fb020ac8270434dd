"""HydraLoRA: one A that all experts share, a B each, mixed by a softmax over each token (Tian et al. 2024, arXiv 2404.19245).

    y = W x + b + s sum_e p_e B_e A x        p = softmax(R x);  R: N x in, A: rank x in, B_e: out x rank

rank in + N rank out + N in parameters a site, N the option `experts` (4). Cannot be merged: p is another for every token.
Differs from the authors' code in: dropout, where there is some, acts on what the router reads too; N is set, not found by k-means on the
data; their balance term for two known tasks is not there (adapter.updates: [load_balance] needs no tasks).
When to use it: as lora_moe, where inputs are wide or experts many: what the tasks have in common is learnt once, in A.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="hydralora",
        title="Asymmetric mixture: one A, several B",
        summary="W x + s sum_e p_e B_e A x, p = softmax(R x) for each token",
        source="Tian et al. 2024, arXiv 2404.19245",
        delta="heads",
        init="nothing",
        rank=4,
        alpha=32.0,
        lr=2e-4,
    ),
)
