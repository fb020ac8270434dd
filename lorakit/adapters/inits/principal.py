"""Factors that point where W does, with an update that is zero (LoRA-XS: Balazy et al. 2024, arXiv 2405.17604).

W = U S V^T        A = S_r V_r^T,  B = U_r        with the first r singular triplets

Only what is drawn is filled; what has a start of its own keeps it, and with it dW = 0. Between two such factors a core starts at
zero and is LoRA-XS's; in LoRA, whose B starts at zero, this is the data-free "A from W's right singular vectors". Nothing is taken
out of W, so there is nothing to subtract: that is where it differs from ``pissa``.
Differs from the authors' code in: the singular vectors are exact, not from a randomised algorithm.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits


@torch.no_grad()
def principal(delta: Delta, context: InitContext) -> None:
    """S_r V_r^T into what is drawn in role A, U_r into what is drawn in role B."""
    assert context.weight is not None
    u, s, v = context.leading(context.weight, delta.rank)
    parts = {"A": s[:, None] * v, "B": u}
    for _, tensor, role in delta.init_tensors():
        tensor.copy_(parts[role])


inits.register(
    Init(
        "principal",
        "Principal directions",
        "A = S V^T and B = U of W's first r singular triplets, where they do not start at 0",
        "Balazy et al. 2024, arXiv 2405.17604",
        principal,
        factors=True,
        needs="weight",
        leading=True,
    ),
)
