"""An update that is the same for all inputs of a group: that of their means (QA-LoRA: Xu et al. 2023, section 3.3).

    dW x = B A pool(x)        pool(x): the means of x over groups of g, (in/g);  A: rank x in/g, B: out x rank
    dW = (B A) o 1^T / g      rank (in/g + out) parameters; every number of B A stands g times side by side, divided by g

A base that is quantised in the same groups, W = scale Q + zero, holds W + s dW with other zero points alone: zero + (s/g) B A. Its
integers and scales stay. Means are what the authors' code has; the paper's listing has sums, for which alpha would be g times smaller.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.delta import deltas
from lorakit.adapters.factored import Factored
from lorakit.adapters.ops.thin import thin_product
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.backbone.site import Site


class Pooled(Factored):
    """dW = (B A) o 1^T / g with A (rank x in/g) and B (out x rank)."""

    name = "pooled"
    roles: ClassVar = {"A": "A", "B": "B"}
    starts: ClassVar = {"B": 0.0}
    rank_axes: ClassVar = {"A": 0, "B": 1}
    sliceable: ClassVar = True
    kinds: ClassVar = ("linear", "conv1d")
    options: ClassVar = {
        "group": Option(32, "how many inputs are one (g): model.quantization_group; a last group may be smaller", low=2)
    }
    only_over: ClassVar = "int4"
    A: nn.Parameter
    B: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in/g), B (out x rank)."""
        groups = -(-site.in_features // cls.settings_of(options)["group"])
        return {"A": (rank, groups), "B": (site.out_features, rank)}

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``B (scale A pool(x))``."""
        return thin_product(self.pool(x), self.tensor("A"), self.tensor("B"), scale)

    def added(self, base: torch.Tensor, x: torch.Tensor, scale: float) -> torch.Tensor:
        """The same, added to ``base`` in one go."""
        return thin_product(self.pool(x), self.tensor("A"), self.tensor("B"), scale, base)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> (..., in/g): sums over groups, divided by g also where the last one is smaller."""
        group = self.settings["group"]
        return F.pad(x, (0, -x.shape[-1] % group)).unflatten(-1, (-1, group)).mean(dim=-1)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B and A with each column g times, divided by g (rank x in)."""
        group = self.settings["group"]
        wide = self.tensor("A").repeat_interleave(group, dim=1)[:, : self.site.in_features]
        return self.tensor("B"), wide / group

    def by_groups(self, group: int) -> torch.Tensor | None:
        """B A / g (out x in/g), where ``group`` is its own."""
        return self.tensor("B") @ self.tensor("A") / group if group == self.settings["group"] else None


deltas.register(Pooled)
