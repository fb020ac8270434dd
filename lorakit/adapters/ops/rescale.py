"""DoRA's last step, ``y = f t + (1 - f) b``, in as few passes over its large arrays as it takes.

t (..., out) is the layer's output with its bias b (out,) in it, f (out,) the magnitude over the norm. Where f is one, as at the start, y is
t to the bit. The gradient of f, ``sum g (t - b)`` over all rows, is summed a few rows at a time: no array of t's size is made for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

Tensor = torch.Tensor
ROWS = 256  # at a time: what is made of them stays in the cache


def rescale(t: Tensor, f: Tensor, b: Tensor | None) -> Tensor:
    """``f t + (1 - f) b`` in the wider dtype of t and f; b never gets a gradient."""
    dtype = torch.promote_types(t.dtype, f.dtype)
    out: Tensor = Rescale.apply(t.to(dtype), f.to(dtype), None if b is None else b.detach().to(dtype))
    return out


class Rescale(torch.autograd.Function):
    """See ``rescale``; all tensors have one dtype."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, f: Tensor, b: Tensor | None) -> Tensor:
        """One pass."""
        ctx.save_for_backward(t, f, b)
        return t * f if b is None else torch.addcmul((1 - f) * b, t, f)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Of t and f."""
        t, f, b = ctx.saved_tensors
        summed = torch.zeros_like(f) if ctx.needs_input_grad[1] else None
        if summed is not None:
            width = f.shape[0]
            step = ROWS if t.device.type == "cpu" else t.numel()
            for rows, values in zip(grad.reshape(-1, width).split(step), t.reshape(-1, width).split(step), strict=True):
                summed += (rows * (values if b is None else values - b)).sum(dim=0)
        return grad * f if ctx.needs_input_grad[0] else None, summed, None
