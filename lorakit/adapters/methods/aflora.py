"""AFLoRA: LoRA with vectors, whose matrices are frozen one by one as they settle (Liu et al. 2024, arXiv 2403.13269).

    dW = diag(b) B diag(d) A        A: rank x in, B: out x rank, kaiming-uniform with a = 0; d: rank, starts at 0.1; b: out, starts at 0

rank (in + out) + rank + out parameters a site at first, rank + out once its A and B are frozen. Where in = out that is from the start:
as in the authors' code A and B of square layers never train, unless adapter.update_options says `square: trained`. Merges exactly.
VeRA's product with matrices of each site's own. What freezes, and when, is the update `aflora` (adapter.update_options); since it decides
what trains, it does not go with a search.
Differs from the authors' code in: the head learns at the rate of the rest unless training.head_lr is given, theirs at one of its own.
When to use it: at low rank on all projections, for VeRA's size in the end without VeRA's high rank; wants a high learning rate.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="aflora",
        title="Adaptive freezing of low-rank adaptation",
        summary="dW = diag(b) B diag(d) A; A and B freeze as they settle",
        source="Liu et al. 2024, arXiv 2403.13269",
        delta="vectors",
        init="he_uniform",
        scale="none",
        targets=("all",),
        rank=4,
        lr=0.005,
        updates=("aflora",),
    ),
)
