"""A vector behind each of LoRA's two factors.

dW = diag(b) B diag(d) A        A: rank x in, d: rank, B: out x rank, b: out,  rank (in + out) + rank + out parameters

A and B are drawn, d starts at 0.1 and b at zero, so that dW = 0 (VeRA's start: Kopiczko et al. 2024, section 3). ``shared_vectors`` and
``tied`` are the same product with A and B that sites have in common.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.delta import deltas
from lorakit.adapters.factored import Factored
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site

D_START = 0.1


class Vectors(Factored):
    """dW = diag(b) B diag(d) A with A (rank x in), d (rank), B (out x rank) and b (out)."""

    name = "vectors"
    roles: ClassVar = {"A": "A", "B": "B", "d": "vector", "b": "vector"}
    rank_axes: ClassVar = {"A": 0, "B": 1, "d": 0}
    sliceable: ClassVar = True
    starts: ClassVar = {"d": D_START, "b": 0.0}
    takes_factors: ClassVar = True
    A: nn.Parameter
    B: nn.Parameter
    d: nn.Parameter
    b: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x rank), d (rank), b (out)."""
        return {
            "A": (rank, site.in_features),
            "B": (site.out_features, rank),
            "d": (rank,),
            "b": (site.out_features,),
        }

    def matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B (out x rank) and A (rank x in)."""
        return self.tensor("B"), self.tensor("A")

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``b * B (scale d * A x)``: at the high ranks of VeRA cheaper to keep for the backward pass than diag(b) B diag(d)."""
        wide, thin = self.matrices()
        return F.linear(F.linear(x, thin) * (scale * self.tensor("d")), wide) * self.b

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """diag(b) B diag(d), and A."""
        wide, thin = self.matrices()
        return self.b[:, None] * wide * self.tensor("d"), thin

    def set_factors(self, b: torch.Tensor, a: torch.Tensor) -> None:
        """B = b, A = a, with ones in both vectors."""
        self.B.copy_(b)
        self.A.copy_(a)
        self.d.fill_(1.0)
        self.b.fill_(1.0)


deltas.register(Vectors)
