"""OLoRA: LoRA that starts from the QR decomposition of W (Büyükakyüz 2024, arXiv 2406.01775, section 3).

    W = Q R;    B = Q's first r columns,  A = R's first r rows;    W' = W + s (B A - B_0 A_0)

rank (in + out) parameters a site, as LoRA; B starts orthonormal. Merges exactly: W' is a plain weight.
The paper trains B A in W - s B_0 A_0, which is the same function (lorakit.adapters.anchored).
Checked against PEFT's code.
When to use it: for a start from W that costs a QR rather than PiSSA's SVD.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="olora",
        title="Orthonormal low-rank adaptation",
        summary="LoRA from B = Q_r, A = R_r of W = Q R",
        source="Büyükakyüz 2024, section 3",
        init="olora",
        alpha=8.0,
        lr=5e-4,
    ),
)
