"""CorDA's knowledge-preserved start (Yang et al. 2024, arXiv 2406.05223, section 3): what matters least to the calibration inputs.

W C = U S V^T        A = sqrt(S_r / s) V_r^T C^-1,  B = U_r sqrt(S_r / s)        with the r smallest singular values
Differs from the authors' code in: C, see inits/corda_ipm.py, where its damping stands too.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits
from lorakit.adapters.inits.corda_ipm import corda
from lorakit.adapters.spectrum import trailing


@torch.no_grad()
def corda_kpm(delta: Delta, context: InitContext) -> None:
    """Factors from the ``delta.rank`` smallest singular values of W C."""
    corda(delta, context, trailing)


inits.register(
    Init(
        "corda_kpm",
        "CorDA, knowledge-preserved",
        "s B A = the last r singular triplets of W C, times C^-1",
        "Yang et al. 2024, section 3",
        corda_kpm,
        factors=True,
        anchors=True,
        needs="covariance",
    ),
)
