"""CorDA, knowledge-preserved: LoRA from the part of W that the inputs use least (Yang et al. 2024, arXiv 2406.05223, section 3).

    C = mean of x x^T over training tokens,  W C = U S V^T
    A = sqrt(S_r / s) V_r^T C^-1,  B = U_r sqrt(S_r / s) with the r smallest S;    W' = W + s (B A - B_0 A_0)

rank (in + out) parameters a site, as LoRA. Looks at `adapter.init_batches` training batches first. Merges exactly: W' is a plain weight.
Differs from the authors' code in: C comes from the training rows, the only texts that a recipe has, not from texts whose knowledge is to
be kept; else as corda_ipm.
When to use it: to change as little as possible of what the model does with such texts.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="corda_kpm",
        title="Context-oriented decomposition adaptation, knowledge-preserved",
        summary="LoRA from the last r singular triplets of W C, C the inputs' covariance",
        source="Yang et al. 2024, section 3",
        init="corda_kpm",
        alpha=8.0,
    ),
)
