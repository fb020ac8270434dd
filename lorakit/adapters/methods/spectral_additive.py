"""Spectral Adapter, additive: changes added to the first singular vectors (Zhang and Pilanci 2024, arXiv 2405.13952, section 3).

    W = U S V^T,  W' = (U_r + B) S_r (V_r + A^T)^T + the rest of W        A: rank x in,  B: out x rank,  both 0 at start

rank (in + out) parameters a site, as LoRA. dW = U_r S_r A + B S_r (V_r^T + A) reaches rank 2 r, and its gradients carry the
singular values: the learning rate is not LoRA's. There is no alpha.
Merges exactly, and is a LoRA of twice the rank: [U_r, B] diag(s, s) times A above V_r^T + A.
Checked against the authors' code. The sum is computed in factored form, and their A (in x rank) is kept transposed.
When to use it: where LoRA is, when the task is close to what the model knows.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="spectral_additive",
        title="Spectral adapter, additive",
        summary="(U_r + B) S_r (V_r + A)^T, A and B zero",
        source="Zhang and Pilanci 2024, section 3",
        delta="spectral_additive",
        init="nothing",
        scale="none",
        lr=5e-4,
    ),
)
