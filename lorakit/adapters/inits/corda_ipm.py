"""CorDA's start: singular triplets of W as its inputs see it (Yang et al. 2024, arXiv 2406.05223, section 3).

C = mean of x x^T over calibration tokens, W C = U S V^T        A = sqrt(S_r / s) V_r^T C^-1,  B = U_r sqrt(S_r / s)

ipm (instruction-previewed) takes the r largest singular values, kpm (knowledge-preserved, inits/corda_kpm.py) the r smallest.
The start is subtracted (``lorakit.adapters.anchored``). C gets 0.01 of its mean diagonal on the diagonal, doubled until it can be
inverted to an error below 0.05, as in the authors' code and PEFT.
Differs from the authors' code in: all tokens weigh the same and C is divided by its mean diagonal, where theirs and PEFT's divide each
sample by its largest entry and sum over its tokens: so the balance of A and B does not depend on the unit or the length of the inputs
(the product B A does not depend on C's scale at all).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits
from lorakit.adapters.inits.pissa import split

Tensor = torch.Tensor

DAMPING, LARGEST_ERROR = 0.01, 0.05


@torch.no_grad()
def corda_ipm(delta: Delta, context: InitContext) -> None:
    """Factors from the ``delta.rank`` largest singular values of W C."""
    corda(delta, context, context.leading)


def corda(delta: Delta, context: InitContext, triplets: Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]) -> None:
    """Factors from the singular values of W C that ``triplets`` finds, ``delta.rank`` of them."""
    weight, covariance = context.weight, context.covariance
    assert weight is not None
    assert covariance is not None
    damped, inverse = inverted(covariance.to(weight))
    u, s, v = triplets(weight @ damped, delta.rank)
    split(delta, context, u, s, v @ inverse, slice(None))


def inverted(covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The covariance with a mean diagonal of one, damped as little as its inverse allows, and that inverse.

    Inputs that are always zero tell nothing: their covariance counts as the identity.
    """
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    mean = covariance.diagonal().mean()
    scaled = covariance / mean if mean > 0 else eye
    damping = DAMPING
    while True:
        damped = scaled + damping * eye
        inverse = torch.linalg.inv(damped)
        if torch.dist(damped @ inverse, eye) < LARGEST_ERROR:
            return damped, inverse
        damping *= 2


inits.register(
    Init(
        "corda_ipm",
        "CorDA, instruction-previewed",
        "s B A = the first r singular triplets of W C, times C^-1",
        "Yang et al. 2024, section 3",
        corda_ipm,
        factors=True,
        anchors=True,
        needs="covariance",
        leading=True,
    ),
)
