"""MiLoRA's start: the last singular triplets of W (Wang et al. 2024, arXiv 2406.09044, section 3).

W = U S V^T        A = sqrt(S_r / s) V_r^T,  B = U_r sqrt(S_r / s)        with the r smallest singular values

As PiSSA's, from the other end: the principal part of W is left alone. The start is subtracted (``lorakit.adapters.anchored``).
Checked against the authors' code.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits
from lorakit.adapters.inits.pissa import split
from lorakit.adapters.spectrum import trailing


@torch.no_grad()
def milora(delta: Delta, context: InitContext) -> None:
    """Factors from the ``delta.rank`` smallest singular values."""
    assert context.weight is not None
    split(delta, context, *trailing(context.weight, delta.rank), slice(None))


inits.register(
    Init(
        "milora",
        "MiLoRA",
        "s B A = the last r singular triplets of W",
        "Wang et al. 2024, section 3",
        milora,
        factors=True,
        anchors=True,
        needs="weight",
    ),
)
