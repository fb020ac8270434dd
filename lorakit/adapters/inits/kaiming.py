"""LoRA's start in its authors' code: A ~ U(-1/sqrt(in), 1/sqrt(in)), everything else zero, so that dW = 0."""

from __future__ import annotations

import math

import torch
from torch import nn

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import InitContext
from lorakit.registry import inits


@torch.no_grad()
def kaiming(delta: Delta, context: InitContext) -> None:
    """Kaiming-uniform with a = sqrt(5) on role A (He et al. 2015; microsoft/LoRA), zeros elsewhere."""
    for _, tensor, role in delta.tensors():
        if role == "A":
            nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=context.generator)
        else:
            tensor.zero_()


inits.register("kaiming", kaiming)
