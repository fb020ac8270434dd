"""Several vectors that rescale a layer's outputs, or its inputs, of which every token takes its own mixture (MoV: Zadouri et al. 2023).

y = o + (sum_e p_e (l_e - 1)) * o, o = W x + b, p = softmax(R o)        l_e, R_e: out        on q, k, v and whatever is no `down`
y = W (x + (sum_e p_e (l_e - 1)) * x) + b, p = softmax(R x)             l_e, R_e: in         on `down`
                                                                        2 experts out parameters a site, or 2 experts in

sum_e p_e l_e and 1 + sum_e p_e (l_e - 1) are one number, for the p_e sum to 1; written so, l = 1 is the frozen layer bit for bit.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import Layer, deltas
from lorakit.adapters.deltas.rescaling import RESCALES_INPUT, Rescaling
from lorakit.adapters.mixture import Mixture, small_normal
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site


class RescalingExperts(Mixture):
    """Outputs, or inputs, times a mixture of the rows of l (experts x width), the router R (experts x width) reading the same."""

    name = "rescaling_experts"
    roles: ClassVar = {"l": "vector", "R": "router"}
    starts: ClassVar = {"l": 1.0, "R": small_normal}
    free_rank: ClassVar = True
    additive: ClassVar = False
    l: nn.Parameter  # noqa: E741 - the paper's name

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """l and R, both experts x out, or experts x in where inputs are rescaled."""
        shape = (cls.settings_of(options)["experts"], *Rescaling.shapes(site, rank)["l"])
        return {"l": shape, "R": shape}

    def is_zero(self) -> bool:
        """Whether every l is one."""
        return bool((self.l == 1).all())

    def layer_forward(self, layer: Layer, x: torch.Tensor, scale: float) -> torch.Tensor:
        """The rescaled layer, in its own dtype."""
        if self.site.role in RESCALES_INPUT:
            return layer.frozen_forward(self.rescaled(x))
        return self.rescaled(layer.frozen_forward(x))

    def rescaled(self, x: torch.Tensor) -> torch.Tensor:
        """``x + (sum_e p_e (l_e - 1)) * x`` for x (..., width), in its dtype."""
        return (x + self.route(x.to(self.R.dtype)) @ (self.l - 1) * x).to(x.dtype)


deltas.register(RescalingExperts)
