"""MiLoRA: LoRA that starts from the minor singular vectors of W (Wang et al. 2024, arXiv 2406.09044, section 3).

    W = U S V^T;    A = sqrt(S_r / s) V_r^T,  B = U_r sqrt(S_r / s) with the r smallest S;    W' = W + s (B A - B_0 A_0)

rank (in + out) parameters a site, as LoRA; alpha = rank by custom. Merges exactly: W' is a plain weight.
The paper trains B A in W - s B_0 A_0, which is the same function (lorakit.adapters.anchored).
Checked against the authors' code.
When to use it: to learn while what the pretrained weights do most is left alone.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="milora",
        title="Minor singular component adaptation",
        summary="LoRA from the last r singular triplets of W",
        source="Wang et al. 2024, section 3",
        init="milora",
        alpha=8.0,
    ),
)
