"""A small matrix between LoRA's two factors, as in a Tucker decomposition of W's update.

dW = B G A        A: rank x in, G: rank x rank, B: out x rank,  rank (in + out) + rank^2 parameters

A and B are drawn and G starts at zero, so that dW = 0. Trained alone between frozen factors, G costs rank^2 parameters whatever the
widths; trained with them, it lets each direction of A reach every direction of B.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import deltas
from lorakit.adapters.factored import Factored
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site


class Core(Factored):
    """dW = B G A with A (rank x in), G (rank x rank) and B (out x rank).

    G has the rank on both axes: a unit is a row and a column of it.
    """

    name = "core"
    roles: ClassVar = {"A": "A", "B": "B", "G": "core"}
    rank_axes: ClassVar = {"A": 0, "B": 1, "G": (0, 1)}
    sliceable: ClassVar = True
    starts: ClassVar = {"G": 0.0}
    takes_factors: ClassVar = True
    A: nn.Parameter
    B: nn.Parameter
    G: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x rank), G (rank x rank)."""
        return {"A": (rank, site.in_features), "B": (site.out_features, rank), "G": (rank, rank)}

    def matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B (out x rank) and A (rank x in)."""
        return self.tensor("B"), self.tensor("A")

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B G, and A."""
        b, a = self.matrices()
        return b @ self.tensor("G"), a

    def set_factors(self, b: torch.Tensor, a: torch.Tensor) -> None:
        """B = b, A = a, G = I."""
        self.B.copy_(b)
        self.A.copy_(a)
        nn.init.eye_(self.G)


deltas.register(Core)
