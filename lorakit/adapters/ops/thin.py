"""The product with two thin matrices, the hot path of nearly every adapter, in the order and layout that cost least.

    y = s b (a x)   or   y = base + s b (a x)      x (..., in), a (r x in), b (out x r), base and y (..., out)

All the thin intermediates are kept as r long rows, ``a X^T`` rather than ``X a^T``: matrix products that have r columns fall into
slow kernels on a CPU (for r = 8 and a wide layer by a factor of ten in b's gradient). The sum with ``base`` is made in place, so that
no second array of that size is written, and x is the only large thing kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

Tensor = torch.Tensor


def thin_product(x: Tensor, a: Tensor, b: Tensor, scale: float, base: Tensor | None = None) -> Tensor:
    """``scale b a x``, added to ``base`` where there is one: ``base`` itself is overwritten unless its dtype is another.

    Computed in autocast's dtype inside of autocast, in that of ``a`` elsewhere; (..., out).
    """
    dtype = computed_in(x, a.dtype)
    x, a, b = x.to(dtype), a.to(dtype), b.to(dtype)
    product: Tensor
    if base is None:
        product = ThinProduct.apply(x, a, b, scale, None)
    elif base.dtype == dtype and not base._is_view():
        product = ThinProduct.apply(x, a, b, scale, base)
    else:
        product = base + ThinProduct.apply(x, a, b, scale, None)
    return product


def adapted_linear(x: Tensor, layer: nn.Linear, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """``W x + bias + scale b a x``: the gradient of x is one array, written once. (The layer is frozen, unless somebody looks at it.)"""
    dtype = computed_in(x, x.dtype)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    out: Tensor = AdaptedLinear.apply(x.to(dtype), layer.weight.to(dtype), bias, a.to(dtype), b.to(dtype), scale)
    return out


def computed_in(x: Tensor, otherwise: torch.dtype) -> torch.dtype:
    """Autocast's dtype where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else otherwise


def flat(x: Tensor) -> Tensor:
    """(..., width) as (rows, width)."""
    return x.reshape(-1, x.shape[-1])


def shaped(rows: Tensor, x: Tensor) -> Tensor:
    """(rows, width) in the shape of x but for its width: no view, for what a function returns may be changed in place by the model."""
    out: Tensor = torch.ops.aten._unsafe_view(rows, (*x.shape[:-1], rows.shape[-1]))
    return out


class AdaptedLinear(torch.autograd.Function):
    """See ``adapted_linear``; all tensors have one dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """The layer's output, and the thin product added to it in place."""
        thin = a @ flat(x).T
        ctx.save_for_backward(x, weight, a, b, thin)
        ctx.scale = scale
        out = flat(linear(x, weight, bias))  # of x as it comes: of rows in another order a plain layer rounds otherwise
        return shaped(out.addmm_(thin.T, b.T, alpha=scale), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Of x, the layer, a and b."""
        x, weight, a, b, thin = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, wants_a, wants_b, _ = ctx.needs_input_grad
        out = flat(grad)
        of_x = out @ weight if wants_x else None
        of_a, of_b = thin_gradients(x, a, b, thin, out, ctx.scale, of_x, wants_a, wants_b)
        return (
            None if of_x is None else of_x.view(x.shape),
            out.T @ flat(x) if wants_weight else None,
            out.sum(dim=0) if wants_bias else None,
            of_a,
            of_b,
            None,
        )


class ThinProduct(torch.autograd.Function):
    """See ``thin_product``; all tensors have one dtype, and ``base`` is contiguous and no view."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, scale: float, base: Tensor | None) -> Tensor:
        """``base + scale x a^T b^T``, in ``base``."""
        thin = a @ flat(x).T
        ctx.save_for_backward(x, a, b, thin)
        ctx.scale = scale
        if base is None:
            return shaped(torch.addmm(thin.new_zeros(1), thin.T, b.T, beta=0, alpha=scale), x)
        ctx.mark_dirty(base)
        base.view(-1, b.shape[0]).addmm_(thin.T, b.T, alpha=scale)
        return base

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Of x, a and b; that of ``base`` is the output's."""
        x, a, b, thin = ctx.saved_tensors
        wants_x, wants_a, wants_b, _, wants_base = ctx.needs_input_grad
        of_x = torch.empty_like(flat(x)) if wants_x else None
        of_a, of_b = thin_gradients(x, a, b, thin, flat(grad), ctx.scale, of_x, wants_a, wants_b, keep=0)
        return None if of_x is None else of_x.view(x.shape), of_a, of_b, None, grad if wants_base else None


def thin_gradients(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    thin: Tensor,
    out: Tensor,
    scale: float,
    of_x: Tensor | None,
    a_too: bool,
    b_too: bool,
    keep: int = 1,
) -> tuple[Tensor | None, Tensor | None]:
    """Those of a and b for the output's gradient ``out`` (rows, out), where they are wanted.

    x's goes into ``of_x`` (rows, in), to which what is there is added ``keep`` times.
    """
    back = b.T @ out.T if a_too or of_x is not None else thin
    if of_x is not None:
        of_x.addmm_(back.T, a, beta=keep, alpha=scale)
    return (back @ flat(x)).mul_(scale) if a_too else None, (thin @ out).T.mul_(scale) if b_too else None
