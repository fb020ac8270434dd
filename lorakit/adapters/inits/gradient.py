"""The gradient's start: the directions in which the loss pulls on the weight hardest, with nothing added yet.

G = dL/dW = U S V^T        A = the first r rows of V^T (orthonormal),  B = 0

The first step of B then moves W by -lr s^2 G A^T A: of all A with orthonormal rows this one keeps the most of G, sigma_1^2 + ... +
sigma_r^2 of |G|^2, where a random A keeps r / in of it on average. Unlike LoRA-GA (Wang et al. 2024) the update starts at zero:
nothing is to be subtracted, and a step costs what LoRA's costs.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits


@torch.no_grad()
def gradient(delta: Delta, context: InitContext) -> None:
    """A from the gradient's right singular vectors, B zero."""
    assert context.gradient is not None
    start_from_gradient(delta, context.leading(context.gradient, delta.rank)[2])


@torch.no_grad()
def start_from_gradient(delta: Delta, directions: torch.Tensor) -> None:
    """A = the first rows of ``directions`` (as many as the rank, x in), B = 0."""
    a = directions[: delta.rank]
    delta.set_factors(a.new_zeros(delta.site.out_features, delta.rank), a)


inits.register(
    Init(
        "gradient",
        "Gradient directions",
        "A = the first r right singular vectors of dL/dW, B = 0",
        "after LoRA-GA (Wang et al. 2024) and EVA (Paischer et al. 2024)",
        gradient,
        factors=True,
        zero="B",
        needs="gradient",
        leading=True,
    ),
)
