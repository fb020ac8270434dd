"""CorDA, instruction-previewed: LoRA from the part of W that the task's inputs use most (Yang et al. 2024, arXiv 2406.05223, section 3).

    C = mean of x x^T over training tokens,  W C = U S V^T
    A = sqrt(S_r / s) V_r^T C^-1,  B = U_r sqrt(S_r / s) with the r largest S;    W' = W + s (B A - B_0 A_0)

rank (in + out) parameters a site, as LoRA. Looks at `adapter.init_batches` training batches first. Merges exactly: W' is a plain weight.
The paper trains B A in W - s B_0 A_0, which is the same function (lorakit.adapters.anchored).
Differs from the authors' code in: C weighs all tokens alike, where theirs and PEFT's divide each sample by its largest entry; its scale
changes the balance of A and B, never their product (lorakit/adapters/inits/corda_ipm.py).
When to use it: as PiSSA, where the task's texts differ from what the model was pretrained on.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="corda_ipm",
        title="Context-oriented decomposition adaptation, instruction-previewed",
        summary="LoRA from the first r singular triplets of W C, C the inputs' covariance",
        source="Yang et al. 2024, section 3",
        init="corda_ipm",
        alpha=8.0,
        lr=5e-4,
    ),
)
