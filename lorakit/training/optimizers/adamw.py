"""AdamW: Adam, whose weight decay is no part of the gradient (Loshchilov & Hutter 2019, Decoupled weight decay regularization).

    m <- 0.9 m + 0.1 g        v <- 0.999 v + 0.001 g^2        p <- (1 - lr decay) p - lr m^ / (sqrt(v^) + 1e-8)

m^, v^: the moments over 1 - 0.9^t and 1 - 0.999^t, at step t. Both are of the tensor's shape: 8 bytes a trained number. It is torch's,
in one kernel.
Not checked against the authors' code, which was not read: follows section 2 of the paper.
When to use it: unless memory is short. Adapters are small, and so is its state; that of full fine-tuning is twice the weights.
"""

from __future__ import annotations

from math import prod

import torch

from lorakit.training.optimizer import WHOLE, OptimizerKind, optimizers

optimizers.register(
    OptimizerKind(
        name="adamw",
        summary="Adam with decoupled weight decay: two moments of 32 bits a number",
        source="Loshchilov & Hutter 2019, section 2",
        make=lambda groups, settings, seed: torch.optim.AdamW(groups, fused=True),
        state_bytes=lambda shape, settings: 2 * WHOLE * prod(shape),
        keeps_moments=True,
    )
)
