"""A and B orthogonal to each other: both are drawn and B A is zero, as B reads other directions of the rank than A writes (PEFT's code).

Q: a random orthogonal (rank x rank) matrix        A = (Q_odd^T G) / 10,  B = (H Q_even) / 10,  G and H standard normal

Q_odd and Q_even are the odd and the even rows of Q, so that Q_even Q_odd^T = 0 and B A = 0; what rounding leaves of it is subtracted
(``lorakit.adapters.anchored``).
Not `orthonormal`, where A alone is drawn, with A A^T = I, and B is zero.
Differs from PEFT's code in: an odd rank is taken too, A then gets the one row more.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits


@torch.no_grad()
def orthogonal(delta: Delta, context: InitContext) -> None:
    """Two random factors whose product is zero."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.empty(shape).normal_(generator=context.generator)

    q, _ = torch.linalg.qr(normal(delta.rank, delta.rank))
    odd, even = q[0::2], q[1::2]
    a = odd.T @ normal(len(odd), delta.site.in_features)
    b = normal(delta.site.out_features, len(even)) @ even
    delta.set_factors(b / 10, a / 10)


inits.register(
    Init(
        "orthogonal",
        "Orthogonal to each other",
        "A and B random with B A = 0",
        "PEFT's orthogonal_init",
        orthogonal,
        factors=True,
        anchors=True,
    ),
)
