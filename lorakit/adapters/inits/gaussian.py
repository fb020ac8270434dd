"""LoRA's start in its paper: A ~ N(0, 1/rank^2), everything else zero, so that dW = 0 (Hu et al. 2021, section 4.1)."""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import InitContext
from lorakit.registry import inits


@torch.no_grad()
def gaussian(delta: Delta, context: InitContext) -> None:
    """Normal with standard deviation 1/rank on role A (the deviation PEFT uses), zeros elsewhere."""
    for name, tensor, role in delta.tensors():
        if role == "A":
            tensor.normal_(0.0, 1.0 / tensor.shape[delta.rank_axes[name]], generator=context.generator)
        else:
            tensor.zero_()


inits.register("gaussian", gaussian)
