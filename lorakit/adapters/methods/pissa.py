"""PiSSA: LoRA that starts from the principal singular vectors of W (Meng et al. 2024, arXiv 2404.02948, section 3).

    W = U S V^T;    A = sqrt(S_r / s) V_r^T,  B = U_r sqrt(S_r / s);    W' = W + s (B A - B_0 A_0)

rank (in + out) parameters a site, as LoRA; alpha = rank by custom. Merges exactly: W' is a plain weight.
The paper trains B A in W - s B_0 A_0, which is the same function (lorakit.adapters.anchored).
Checked against the authors' code.
When to use it: for faster learning than LoRA at the same rank and learning rate.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="pissa",
        title="Principal singular values and vectors adaptation",
        summary="LoRA from the first r singular triplets of W",
        source="Meng et al. 2024, section 3",
        init="pissa",
        alpha=8.0,
        lr=5e-4,
    ),
)
