"""TriLoRA: a compact SVD form with three trainable factors (Feng et al. 2024, arXiv 2405.11236).

    dW = s B diag(g) A        A: rank x in and B: out x rank drawn alike, g: rank, starts at 0;  s = alpha / rank

rank (in + out) + rank parameters a site. Merges exactly. AdaLoRA's form without its allocation.
Not checked against the authors' code, which was not read: follows the method section of the paper. Of its two versions in
Subspace-Tuning, a third party's, one has s and one has none.
When to use it: as the starting point of methods that prune or weigh single ranks.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="trilora",
        title="TriLoRA",
        summary="dW = B diag(g) A, g = 0 at start",
        source="Feng et al. 2024, arXiv 2405.11236",
        delta="diagonal",
        lr=2e-3,
    ),
)
