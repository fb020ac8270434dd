"""Ways to draw a tensor that has a start of its own (``Delta.starts``)."""

from __future__ import annotations

import math

import torch
from torch import nn


def standard_normal(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """N(0, 1)."""
    tensor.normal_(generator=generator)


def linear_uniform(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """U(+-1/sqrt(inputs)), as torch's linear layers and LoRA's A start (kaiming-uniform with a = sqrt(5))."""
    nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)


def zero(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """0, for a tensor that does not keep the update at zero, as the constant 0.0 in ``starts`` would say of it."""
    tensor.zero_()
