"""LoRA's product of two thin matrices (Hu et al. 2021, section 4.1).

dW = B A        A: rank x in, B: out x rank,  rank (in + out) parameters

x --- A ---> rank numbers --- B ---> out numbers, added to W x
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import NO_OPTIONS, Options, deltas
from lorakit.adapters.factored import Factored
from lorakit.backbone.site import Site


class LowRank(Factored):
    """dW = B A with A (rank x in) and B (out x rank)."""

    name = "low_rank"
    roles: ClassVar = {"A": "A", "B": "B"}
    rank_axes: ClassVar = {"A": 0, "B": 1}
    narrows: ClassVar = True
    starts: ClassVar = {"B": 0.0}
    peft_names: ClassVar = {"A": "lora_A.weight", "B": "lora_B.weight"}
    takes_factors: ClassVar = True
    A: nn.Parameter
    B: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x rank)."""
        return {"A": (rank, site.in_features), "B": (site.out_features, rank)}

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B and A."""
        return self.B, self.A

    def set_factors(self, b: torch.Tensor, a: torch.Tensor) -> None:
        """B = b, A = a."""
        self.B.copy_(b)
        self.A.copy_(a)


deltas.register(LowRank)
