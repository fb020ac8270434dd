"""LoRA's product of two thin matrices (Hu et al. 2021, section 4.1).

    dW = B A        A: rank x in, B: out x rank,  rank (in + out) parameters

    x ------- A -------> A x ------- B -------> dW x, times s and added to W x
    (.., in)             (.., rank)             (.., out)

rank is small, 8 say, where in and out are hundreds: two thin products beside the frozen one. B starts at zero, so that
dW = 0 and training starts from the pretrained model; A is left to the recipe's init. Row i of A and column i of B are
rank unit i (``rank_units``).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import deltas
from lorakit.adapters.factored import Factored
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site


class LowRank(Factored):
    """dW = B A with A (rank x in) and B (out x rank)."""

    name = "low_rank"
    roles: ClassVar = {"A": "A", "B": "B"}
    starts: ClassVar = {"B": 0.0}
    rank_axes: ClassVar = {"A": 0, "B": 1}
    sliceable: ClassVar = True
    takes_factors: ClassVar = True
    plain_product: ClassVar = True
    peft_names: ClassVar = {"A": "lora_A.weight", "B": "lora_B.weight"}
    A: nn.Parameter
    B: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x rank)."""
        return {"A": (rank, site.in_features), "B": (site.out_features, rank)}

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B and A, which is all there is to it: ``Factored`` computes with them."""
        return self.tensor("B"), self.tensor("A")

    def set_factors(self, b: torch.Tensor, a: torch.Tensor) -> None:
        """B = b, A = a: for an init that gives both, as PiSSA's does."""
        self.B.copy_(b)
        self.A.copy_(a)


deltas.register(LowRank)
