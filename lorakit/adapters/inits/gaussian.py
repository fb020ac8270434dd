"""LoRA's start in its paper: A ~ N(0, 1/rank^2), B zero, so that dW = 0 (Hu et al. 2021, section 4.1).

Checked against PEFT's code.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits


@torch.no_grad()
def gaussian(delta: Delta, context: InitContext) -> None:
    """Normal with standard deviation 1/rank (the deviation PEFT uses) for every tensor that is drawn."""
    for _, tensor, _ in delta.init_tensors():
        tensor.normal_(0.0, 1.0 / min(tensor.shape), generator=context.generator)


inits.register(Init("gaussian", "Gaussian", "A ~ N(0, 1/rank^2), B = 0", "Hu et al. 2021, section 4.1", gaussian))
