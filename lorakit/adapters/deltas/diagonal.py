"""LoRA's product with a weight for each rank between its factors, as in a singular value decomposition.

dW = B diag(g) A        A: rank x in, g: rank, B: out x rank,  rank (in + out) + rank parameters

A and B are drawn alike and g starts at zero, so that dW = 0 while every factor gets a gradient sooner or later.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import deltas
from lorakit.adapters.factored import Factored
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site


class Diagonal(Factored):
    """dW = B diag(g) A with A (rank x in), g (rank) and B (out x rank)."""

    name = "diagonal"
    roles: ClassVar = {"A": "A", "B": "B", "g": "gate"}
    rank_axes: ClassVar = {"A": 0, "B": 1, "g": 0}
    sliceable: ClassVar = True
    starts: ClassVar = {"g": 0.0}
    takes_factors: ClassVar = True
    A: nn.Parameter
    B: nn.Parameter
    g: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x rank), g (rank)."""
        return {"A": (rank, site.in_features), "B": (site.out_features, rank), "g": (rank,)}

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B diag(g), and A."""
        return self.tensor("B") * self.tensor("g"), self.tensor("A")

    def set_factors(self, b: torch.Tensor, a: torch.Tensor) -> None:
        """B = b, A = a, g = 1."""
        self.B.copy_(b)
        self.A.copy_(a)
        self.g.fill_(1.0)


deltas.register(Diagonal)
