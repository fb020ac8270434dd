"""Where tensors start that have a start of their own (``starts`` of a delta), and are not left to the recipe's init."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

Draw = Callable[[torch.Tensor, torch.Generator], None]
"""Fills a tensor in place from a random stream."""
Start = float | Draw
"""A constant, or what draws the tensor."""


def standard_normal(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """N(0, 1)."""
    tensor.normal_(generator=generator)


def linear_uniform(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """U(+-1/sqrt(inputs)), as torch's linear layers and LoRA's A start (kaiming-uniform with a = sqrt(5))."""
    nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)


def he_uniform(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """U(+-sqrt(6 / inputs)): kaiming-uniform with a = 0 (He et al. 2015)."""
    nn.init.kaiming_uniform_(tensor, generator=generator)


def zero(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """0, for a tensor that does not keep the update at zero, as the constant 0.0 in ``starts`` would say of it."""
    tensor.zero_()


@torch.no_grad()
def put_at_start(
    tensors: Iterable[tuple[str, nn.Parameter, str]], starts: Mapping[str, Start], generator: torch.Generator
) -> None:
    """Put those of ``tensors`` (name, parameter, role) that ``starts`` names at their constants, or draw them, in their order."""
    for name, tensor, _ in tensors:
        start = starts.get(name)
        if callable(start):
            start(tensor, generator)
        elif start is not None:
            tensor.fill_(start)
