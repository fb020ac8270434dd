"""LoTR: low tensor rank adaptation, outer factors shared by all layers (Bershatsky et al. 2024, arXiv 2402.01376).

    dW = s B G A        A: rank x in, B: out x rank shared by all sites of one shape, start at N(0, 1); G: rank x rank, starts at 0

rank (in + out) parameters a shape, and rank^2 a site: 73,728 for q and v of RoBERTa-base at rank 32. Merges exactly.
The paper's L, M and R are B, G and A; s = alpha / rank. A and B start tens of times larger than LoRA's A, so alpha is small.
Checked against the authors' code.
When to use it: for deep models and tiny adapters, with a rank higher than LoRA's.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="lotr",
        title="Low tensor rank adaptation",
        summary="dW = B G A; B, A shared by sites of one shape, G their own",
        source="Bershatsky et al. 2024, arXiv 2402.01376",
        delta="shared_core",
        init="nothing",
        rank=32,
        alpha=1.0,
    ),
)
