"""LoRA's product with a share for each rank between its factors; the shares of a site sum to one.

dW = B diag(softmax(alpha)) A        A: rank x in, B: out x rank, alpha: rank, starts at 1: every share is 1 / rank

alpha is what `search.method=autolora` learns on rows of its own; it is no rank axis: what is left of a site's units after others were
taken out keeps the shares it had, so the whole alpha stays. rank (in + out) parameters, and rank where alpha is trained with the rest.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import deltas
from lorakit.adapters.factored import Factored
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site

SELECTION = "selection"
"""The role of what weighs rank units against each other."""


class Selection(Factored):
    """dW = B diag(softmax(alpha)) A with A (rank x in), B (out x rank) and alpha (rank)."""

    name = "selection"
    roles: ClassVar = {"A": "A", "B": "B", "alpha": SELECTION}
    rank_axes: ClassVar = {"A": 0, "B": 1}
    starts: ClassVar = {"B": 0.0, "alpha": 1.0}
    A: nn.Parameter
    B: nn.Parameter
    alpha: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x rank), alpha (rank)."""
        return {"A": (rank, site.in_features), "B": (site.out_features, rank), "alpha": (rank,)}

    def shares(self) -> torch.Tensor:
        """softmax(alpha) (rank,)."""
        return self.alpha.softmax(dim=0)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B diag(softmax(alpha)), and A."""
        return self.tensor("B") * self.shares(), self.tensor("A")


deltas.register(Selection)
