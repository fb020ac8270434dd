"""PiSSA's start: the first singular triplets of W (Meng et al. 2024, arXiv 2404.02948, section 3).

W = U S V^T        A = sqrt(S_r / s) V_r^T,  B = U_r sqrt(S_r / s)        so that s B A is W's best approximation of rank r

The scale s is divided out; the start is subtracted (``lorakit.adapters.anchored``), so W stays in place.
Large matrices: ``lorakit.adapters.spectrum``.
Checked against the authors' code.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits


@torch.no_grad()
def pissa(delta: Delta, context: InitContext) -> None:
    """Factors from the ``delta.rank`` largest singular values."""
    assert context.weight is not None
    split(delta, context, *context.leading(context.weight, delta.rank), slice(delta.rank))


def split(delta: Delta, context: InitContext, u: torch.Tensor, s: torch.Tensor, v: torch.Tensor, chosen: slice) -> None:
    """``scale B A = U diag(S) V`` of the chosen triplets, S shared out evenly; u (out x k), s (k), v (k x in)."""
    root = (s[chosen] / context.scale).sqrt()
    delta.set_factors(u[:, chosen] * root, root[:, None] * v[chosen])


inits.register(
    Init(
        "pissa",
        "PiSSA",
        "s B A = the first r singular triplets of W",
        "Meng et al. 2024, section 3",
        pissa,
        factors=True,
        anchors=True,
        needs="weight",
        leading=True,
    ),
)
