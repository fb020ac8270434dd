"""FLoRA: a low-rank core space (Si et al. 2024, arXiv 2405.14739).

    dW = s B G A        A: rank x in and B: out x rank ~ N(0, 1/(2 rank)), G: rank x rank, starts at 0, all trained

rank (in + out) + rank^2 parameters a site. Merges exactly. Where LoRA pairs row k of A with column k of B, G pairs all with all.
Not the Flora that compresses gradients by random projections (Hao et al. 2024), which is an optimiser.
Differs from the authors' code in: one rank for both sides instead of r_1 and r_2, and s = alpha / rank instead of a constant (scale:
constant).
When to use it: where LoRA's rank is the limit and widths, not ranks, make the cost: G adds little.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="flora",
        title="Low-rank core space",
        summary="dW = B G A, core G = 0 at start",
        source="Si et al. 2024, arXiv 2405.14739",
        delta="core",
        init="flora",
        lr=0.002,
    ),
)
