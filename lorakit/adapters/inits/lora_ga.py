"""LoRA-GA's start: singular vectors of the loss's gradient (Wang et al. 2024, arXiv 2407.05000, section 3).

G = dL/dW = U S V^T        c = out^(1/4) / sqrt(gamma),  gamma = 16        A = c V_[1:r]^T,  B = c U_[r+1:2r]

The first step of A and B then moves W along the gradient's first 2r directions. The start is subtracted (``lorakit.adapters.anchored``).
Scaled as in the paper and its authors' code, so that the start does not depend on the gradient's size. Where a matrix has fewer
than 2r directions B takes its last r.
Checked against the authors' code.
Differs from PEFT's code in: A and B are scaled alike, where it (direction ArB2r, scale stable) has the same directions, but multiplies B
by S and leaves A unscaled, which on a pretrained encoder puts B near zero; the SVD of small matrices is exact
(``lorakit.adapters.spectrum``), the gradient is taken without dropout, and out is the number of outputs on Conv1D modules too.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits

GAMMA = 16


@torch.no_grad()
def lora_ga(delta: Delta, context: InitContext) -> None:
    """A from the first r singular vectors of the gradient, B from the next r."""
    assert context.gradient is not None
    directions = min(2 * delta.rank, *context.gradient.shape)
    u, _, v = context.leading(context.gradient, directions)
    first = directions - delta.rank
    chosen = slice(first, first + delta.rank)
    size = delta.site.out_features**0.25 / GAMMA**0.5
    delta.set_factors(size * u[:, chosen], size * v[: delta.rank])


inits.register(
    Init(
        "lora_ga",
        "LoRA-GA",
        "A ~ V_[1:r]^T, B ~ U_[r+1:2r] of dL/dW",
        "Wang et al. 2024, section 3",
        lora_ga,
        factors=True,
        anchors=True,
        needs="gradient",
        leading=True,
    ),
)
