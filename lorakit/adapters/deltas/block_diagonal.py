"""Several small LoRAs side by side, each from a slice of the inputs to a slice of the outputs (MELoRA: Ren et al. 2024).

dW = blockdiag(B_1 A_1, ..., B_n A_n)        A_i: rank x in/n, B_i: out/n x rank;  rank (in + out) parameters, n times LoRA's rank

The blocks are kept in two matrices of LoRA's shapes: A_i are columns of A (rank x in), B_i rows of B (out x rank).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.backbone.site import Site


class BlockDiagonal(Delta):
    """dW = blockdiag(B_i A_i) with the A_i in A (rank x in) and the B_i in B (out x rank)."""

    name = "block_diagonal"
    roles: ClassVar = {"A": "A", "B": "B"}
    rank_axes: ClassVar = {"A": 0, "B": 1}
    starts: ClassVar = {"B": 0.0}
    options: ClassVar = {
        "minis": Option(2, "how many small LoRAs there are (n), a divisor of every adapted width", low=1)
    }
    A: nn.Parameter
    B: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x rank)."""
        return {"A": (rank, site.in_features), "B": (site.out_features, rank)}

    @classmethod
    def refusal(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> str:
        """Both widths fall into n slices, each at least as wide as the rank."""
        n = cls.settings_of(options)["minis"]
        common = math.gcd(site.in_features, site.out_features)
        if common % n:
            return f"its widths do not fall into {n} slices (minis={n}); {divisors(common)} would do"
        thinnest = min(site.in_features, site.out_features) // n
        return f"its slices are {thinnest} wide, thinner than rank {rank}" if rank > thinnest else ""

    def blocks(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The B_i (n x out/n x rank) and the A_i (n x rank x in/n)."""
        n = self.settings["minis"]
        return self.tensor("B").view(n, -1, self.rank), self.tensor("A").view(self.rank, n, -1).transpose(0, 1)

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``B_i (scale A_i x_i)`` for every slice x_i of x."""
        b, a = self.blocks()
        slices = x.unflatten(-1, (len(a), -1))
        narrow = torch.einsum("...ni,nri->...nr", slices, a) * scale
        return torch.einsum("...nr,nor->...no", narrow, b).flatten(-2)

    def dense(self) -> torch.Tensor:
        """blockdiag(B_i A_i) (out x in)."""
        b, a = self.blocks()
        return torch.block_diag(*(b @ a))

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """blockdiag(B_i) (out x n rank) and blockdiag(A_i) (n rank x in)."""
        b, a = self.blocks()
        return torch.block_diag(*b), torch.block_diag(*a)


def divisors(number: int) -> str:
    """Its divisors, the largest first, in words."""
    return ", ".join(str(d) for d in range(number, 0, -1) if number % d == 0)


deltas.register(BlockDiagonal)
