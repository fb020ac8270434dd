"""OLoRA's start: the first columns of W's QR decomposition (Büyükakyüz 2024, arXiv 2406.01775, section 3).

W = Q R        B = the first r columns of Q (orthonormal),  A = the first r rows of R

The start s B A is subtracted (``lorakit.adapters.anchored``); as in PEFT it is not divided by s first.
Checked against PEFT's code.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits


@torch.no_grad()
def olora(delta: Delta, context: InitContext) -> None:
    """B orthonormal, and what W is in its directions."""
    assert context.weight is not None
    q, r = torch.linalg.qr(context.weight)
    delta.set_factors(q[:, : delta.rank], r[: delta.rank])


inits.register(
    Init(
        "olora",
        "OLoRA",
        "B = Q_r, A = R_r of W = Q R",
        "Büyükakyüz 2024, section 3",
        olora,
        factors=True,
        anchors=True,
        needs="weight",
    ),
)
