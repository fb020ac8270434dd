"""A vector that rescales a layer's outputs, or its inputs ((IA)3: Liu et al. 2022, section 3.3).

y = l * (W x + b)        W' = diag(l) W, b' = l * b        l: out        on q, k, v and whatever is no `down`
y = W (l * x) + b        W' = W diag(l)                    l: in         on `down`, whose input is the MLP's activation
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import Delta, Layer, deltas
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site

RESCALES_INPUT = ("down",)


class Rescaling(Delta):
    """W' = diag(l) W with b' = l * b, or W' = W diag(l) on an MLP's second projection."""

    name = "rescaling"
    roles: ClassVar = {"l": "vector"}
    starts: ClassVar = {"l": 1.0}
    free_rank: ClassVar = True
    kinds: ClassVar = ("linear", "conv1d")
    additive: ClassVar = False
    l: nn.Parameter  # noqa: E741 - the paper's name

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """l (out), or (in) where inputs are rescaled."""
        return {"l": (site.in_features if site.role in RESCALES_INPUT else site.out_features,)}

    def is_zero(self) -> bool:
        """Whether l is one."""
        return bool((self.l == 1).all())

    def layer_forward(self, layer: Layer, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``l * (W x + b)`` or ``W (l * x) + b``, in the layer's own dtype."""
        if self.site.role in RESCALES_INPUT:
            return layer.frozen_forward((x * self.l).to(x.dtype))
        out = layer.frozen_forward(x)
        return (out * self.l).to(out.dtype)

    def effective_weight(self, weight: torch.Tensor, scale: float) -> torch.Tensor:
        """diag(l) W or W diag(l)."""
        factor = self.l.to(weight.dtype)
        return weight * (factor if self.site.role in RESCALES_INPUT else factor[:, None])

    def effective_bias(self, weight: torch.Tensor, bias: torch.Tensor | None, scale: float) -> torch.Tensor | None:
        """l * b where outputs are rescaled."""
        if bias is None or self.site.role in RESCALES_INPUT:
            return bias
        return bias * self.l.to(bias.dtype)


deltas.register(Rescaling)
