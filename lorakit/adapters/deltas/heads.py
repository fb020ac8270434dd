"""One A and several B, of which every token takes its own mixture (HydraLoRA: Tian et al. 2024).

dW x = sum_e p_e B_e A x, p = softmax(R x)        A: rank x in, B_e: out x rank, R: experts x in
                                                  rank in + experts rank out + experts in parameters

The B_e stand side by side in B (out x experts rank).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from lorakit.adapters.delta import deltas
from lorakit.adapters.mixture import LowRankMixture
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site


class Heads(LowRankMixture):
    """dW x = sum_e p_e B_e A x with A (rank x in), B (out x experts rank) and R (experts x in)."""

    name = "heads"

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x experts rank), R (experts x in)."""
        experts = cls.settings_of(options)["experts"]
        return {
            "A": (rank, site.in_features),
            "B": (site.out_features, experts * rank),
            "R": (experts, site.in_features),
        }

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``sum_e p_e B_e (scale A x)``."""
        narrow = F.linear(x, self.A)
        return F.linear((narrow[..., None, :] * (scale * self.route(x))[..., None]).flatten(-2), self.B)


deltas.register(Heads)
