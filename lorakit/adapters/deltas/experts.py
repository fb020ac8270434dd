"""Several LoRAs side by side, of which every token takes its own mixture.

dW x = sum_e p_e B_e A_e x, p = softmax(R x)        A_e: rank x in, B_e: out x rank, R: experts x in
                                                    experts rank (in + out) + experts in parameters

The A_e stand one upon the other in A (experts rank x in), the B_e side by side in B (out x experts rank): all experts are two thin
products with p between them, a LoRA of rank experts * rank whose rank units are weighed by token.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from lorakit.adapters.delta import deltas
from lorakit.adapters.mixture import LowRankMixture, sum_of_experts
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site


class Experts(LowRankMixture):
    """dW x = sum_e p_e B_e A_e x with A (experts rank x in), B (out x experts rank) and R (experts x in)."""

    name = "experts"
    over_runs: ClassVar = "trained_experts"

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (experts rank x in), B (out x experts rank), R (experts x in)."""
        experts = cls.settings_of(options)["experts"]
        return {
            "A": (experts * rank, site.in_features),
            "B": (site.out_features, experts * rank),
            "R": (experts, site.in_features),
        }

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``sum_e p_e B_e (scale A_e x)``."""
        return sum_of_experts(x, self.A, self.B, scale * self.route(x), self.experts)


deltas.register(Experts)
