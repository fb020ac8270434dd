"""The first singular vectors of W, each with a change added (Spectral Adapter: Zhang and Pilanci 2024, section 3).

W = U S V^T        W' = (U_r + B) S_r (V_r + A^T)^T + the rest of W        A: rank x in, B: out x rank,  rank (in + out) parameters
                   dW = U_r S_r A + B S_r (V_r^T + A)                      a sum of rank 2 rank at most

Both start at 0 and neither is stuck there: U_r and V_r carry the other's gradient. U_r, S_r and V_r are not saved but derived
from W anew whenever a model is built (see ``singular_values``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.singular_values import Decomposed
from lorakit.adapters.factored import Factored
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site

Tensor = torch.Tensor


class SpectralAdditive(Decomposed, Factored):
    """dW = U_r S_r A + B S_r (V_r^T + A) with A (rank x in) and B (out x rank)."""

    name = "spectral_additive"
    roles: ClassVar = {"A": "A", "B": "B"}
    rank_axes: ClassVar = {"A": 0, "B": 1}
    starts: ClassVar = {"A": 0.0, "B": 0.0}
    A: nn.Parameter
    B: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x rank)."""
        return {"A": (rank, site.in_features), "B": (site.out_features, rank)}

    @classmethod
    def stuck(cls, trains: Callable[[str], bool]) -> str:
        """A tensor without which nothing moves: there is none, each of the two moves alone."""
        return ""

    def is_zero(self) -> bool:
        """Whether A and B are both zero."""
        return not self.tensor("A").any() and not self.tensor("B").any()

    def forward(self, x: Tensor, scale: float) -> Tensor:
        """``U_r s (scale A x) + B s (scale (V_r^T + A) x)``."""
        moved = F.linear(x, self.tensor("A"))
        values = scale * self.s
        return F.linear(moved * values, self.u) + F.linear((F.linear(x, self.v) + moved) * values, self.tensor("B"))

    def factors(self) -> tuple[Tensor, Tensor]:
        """[U_r, B] diag(s, s), and A above V_r^T + A."""
        b, a = self.tensor("B"), self.tensor("A")
        return torch.cat([self.u * self.s, b * self.s], dim=1), torch.cat([a, self.v + a])


deltas.register(SpectralAdditive)
