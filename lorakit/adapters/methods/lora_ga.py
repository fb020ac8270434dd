"""LoRA-GA: LoRA whose first step goes where full fine-tuning would (Wang et al. 2024, arXiv 2407.05000, section 3).

    G = dL/dW = U S V^T;    A = (out^(1/4) / 4) V_[1:r]^T,  B = (out^(1/4) / 4) U_[r+1:2r];    W' = W + s (B A - B_0 A_0)

rank (in + out) parameters a site, as LoRA. Looks at `adapter.init_batches` training batches first. Merges exactly: W' is a plain weight.
The paper trains B A in W - s B_0 A_0, which is the same function (lorakit.adapters.anchored). A and B are scaled as in the paper, with
rsLoRA's scale s = alpha / sqrt(r).
Checked against the authors' code.
Differs from PEFT's code in: B is not multiplied by S, and A is scaled as B is.
When to use it: for fast early progress, where a few training batches tell the direction well.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="lora_ga",
        title="Low-rank adaptation with gradient approximation",
        summary="LoRA from the singular vectors of dL/dW on a few training batches",
        source="Wang et al. 2024, section 3",
        init="lora_ga",
        scale="rslora",
        alpha=8.0,
        lr=5e-4,
    ),
)
