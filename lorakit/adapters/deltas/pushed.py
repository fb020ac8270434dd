"""LoRA's product, and a weight that is pushed by every change of it (Delta-LoRA: Zi et al. 2023, arXiv 2309.02411).

    after step t >= K:   W <- W + p s (B_t+1 A_t+1 - B_t A_t)         which telescopes, p being constant:
    dW = B A + p (B A - B_K A_K) = [(1 + p) B, -p B_K] [A; A_K]       A: rank x in, B: out x rank

rank (in + out) parameters. B_K, A_K (``B_start``, ``A_start``) and p (``push``, one number, 0 until the update `delta_lora` begins) are
kept and never train. The second term is W's: A and B learn as if it were constant, x gets its gradient. Nothing dense is made.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.declaration import START
from lorakit.adapters.delta import deltas
from lorakit.adapters.factored import Factored
from lorakit.adapters.ops.faint import Faint
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site


class Pushed(Factored):
    """dW = B A + push (B A - B_start A_start)."""

    name = "pushed"
    roles: ClassVar = {"A": "A", "B": "B", "A_start": START, "B_start": START, "push": START}
    starts: ClassVar = {"B": 0.0, "A_start": 0.0, "B_start": 0.0, "push": 0.0}
    rank_axes: ClassVar = {"A": 0, "B": 1}
    sliceable: ClassVar = True
    stacks: ClassVar = True
    A: nn.Parameter
    B: nn.Parameter
    A_start: nn.Parameter
    B_start: nn.Parameter
    push: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A, A_start (rank x in), B, B_start (out x rank), push (1,)."""
        a, b = (rank, site.in_features), (site.out_features, rank)
        return {"A": a, "B": b, "A_start": a, "B_start": b, "push": (1,)}

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[(1 + p) B, -p B_K] (out x 2 rank) and [A; A_K] (2 rank x in)."""
        whole = 1 + self.push
        b, a = (Faint.apply(self.tensor(name), 1 / whole) for name in "BA")
        return torch.cat([whole * b, -self.push * self.B_start], dim=1), torch.cat([a, self.A_start])

    @torch.no_grad()
    def begin(self, push: float) -> None:
        """From here on W moves by ``push`` times what B A moves."""
        self.A_start.copy_(self.A)
        self.B_start.copy_(self.B)
        self.push.fill_(push)

    @torch.no_grad()
    def set_stack(self, b: torch.Tensor, a: torch.Tensor) -> None:
        """Make dW = b a for 2 rank units, at a push of 1: the first half in B A, which then counts twice, the others subtracted."""
        self.A.copy_(a[: self.rank])
        self.B.copy_(b[:, : self.rank] / 2)
        self.A_start.copy_(a[self.rank :])
        self.B_start.copy_(-b[:, self.rank :])
        self.push.fill_(1.0)


deltas.register(Pushed)
