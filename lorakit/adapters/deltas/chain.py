"""A sum of products, one of which trains while the finished ones stay (ReLoRA: Lialin et al. 2023; COLA: Xia et al. 2024).

    dW = B A + B_1 A_1 + ... + B_m A_m = [B, B_past] [A; A_past]        A: rank x in, B: out x rank, m < links

rank (in + out) parameters train; the finished products (``A_past``, ``B_past``: room for links - 1 of them) are kept and never do. They are
what merging and starting anew would have put into W: so the pretrained weight stays as it is, and all is one LoRA of rank links * rank.
A link ends by ``finish``, which the update `restart` calls; without it this is a LoRA.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.declaration import START
from lorakit.adapters.delta import deltas
from lorakit.adapters.factored import Factored
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.backbone.site import Site


class Chain(Factored):
    """dW = B A + B_past A_past."""

    name = "chain"
    roles: ClassVar = {"A": "A", "B": "B", "A_past": START, "B_past": START}
    starts: ClassVar = {"B": 0.0, "A_past": 0.0, "B_past": 0.0}
    rank_axes: ClassVar = {"A": 0, "B": 1}
    sliceable: ClassVar = True
    stacks: ClassVar = True
    options: ClassVar = {"links": Option(4, "how many products are trained one after the other and summed", low=2)}
    A: nn.Parameter
    B: nn.Parameter
    A_past: nn.Parameter
    B_past: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x rank), A_past ((links - 1) rank x in), B_past (out x (links - 1) rank)."""
        past = (cls.settings_of(options)["links"] - 1) * rank
        inside, outside = site.in_features, site.out_features
        return {"A": (rank, inside), "B": (outside, rank), "A_past": (past, inside), "B_past": (outside, past)}

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, B_past] (out x links rank) and [A; A_past] (links rank x in)."""
        return torch.cat([self.tensor("B"), self.B_past], dim=1), torch.cat([self.tensor("A"), self.A_past])

    @torch.no_grad()
    def finish(self, link: int, fresh: torch.Tensor) -> None:
        """Put B A in the place of the finished product number ``link``, counted from 0; go on from A = fresh (rank x in) and B = 0."""
        place = slice(link * self.rank, (link + 1) * self.rank)
        self.A_past[place] = self.A
        self.B_past[:, place] = self.B
        self.A.copy_(fresh)
        self.B.zero_()

    @torch.no_grad()
    def set_stack(self, b: torch.Tensor, a: torch.Tensor) -> None:
        """Make dW = b a: the first units in A and B, the others in the finished products."""
        self.A.copy_(a[: self.rank])
        self.B.copy_(b[:, : self.rank])
        self.A_past.copy_(a[self.rank :])
        self.B_past.copy_(b[:, self.rank :])


deltas.register(Chain)
