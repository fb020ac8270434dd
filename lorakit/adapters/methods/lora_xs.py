"""LoRA-XS: a tiny core between frozen singular directions of W (Balazy et al. 2024, arXiv 2405.17604).

    dW = s B G A        W = U S V^T;  A = S_r V_r^T: rank x in and B = U_r: out x rank, frozen;  G: rank x rank, starts at 0

rank^2 parameters a site, whatever its width. Merges exactly.
Differs from the authors' code in: G starts at exactly 0 instead of N(0, 1e-5), so that a fresh model is the pretrained one; the singular
vectors are exact, not from a randomised algorithm; A and B are saved with G, so that an adapter does not depend on them being found
again; the head learns at the rate of the rest unless training.head_lr is given, theirs at one of its own.
When to use it: when an adapter must be tiny, or one model serves very many of them; ranks of 8 to 25, on more than q and v.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="lora_xs",
        title="Low-rank adaptation with extremely small number of parameters",
        summary="dW = B G A; B, A frozen from W's SVD, G trained",
        source="Balazy et al. 2024, arXiv 2405.17604",
        delta="core",
        init="principal",
        trainable="core+magnitude",
        targets=("q", "v", "o", "down"),
        rank=16,
        lr=0.002,
    ),
)
