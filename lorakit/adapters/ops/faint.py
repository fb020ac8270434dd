"""A tensor that learns as if it counted less than it does."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable


class Faint(torch.autograd.Function):
    """``Faint.apply(tensor, share)`` is the tensor, to the bit; going back, it gets its gradient times the number ``share``."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """The tensor."""
        ctx.save_for_backward(share)
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The share of its gradient."""
        (share,) = ctx.saved_tensors
        return gradients[0] * share, None
