"""Updates that are a product of two thin matrices, however those come about."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch.nn import functional as F

from lorakit.adapters.delta import Delta


class Factored(Delta):
    """dW = b a for the ``factors`` b (out x r) and a (r x in), which a subclass computes from its tensors."""

    @abstractmethod
    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """b (out x r) and a (r x in)."""

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``b (scale a x)``: the scale touches r numbers a row, not out."""
        b, a = self.factors()
        return F.linear(F.linear(x, a) * scale, b)

    def dense(self) -> torch.Tensor:
        """b a (out x in)."""
        b, a = self.factors()
        return b @ a

    @torch.no_grad()
    def neutral(self) -> bool:
        """Whether one of the two is zero, wherever its tensors started."""
        b, a = self.factors()
        return not b.any() or not a.any()

    def row_norms_squared(self, weight: torch.Tensor, base_squared: torch.Tensor, scale: float) -> torch.Tensor:
        """``|W + s b a|^2 = |W|^2 + 2s <W, b a> + s^2 |b a|^2`` row by row, without building b a."""
        b, a = self.factors()
        cross = ((weight @ a.T.to(weight.dtype)) * b).sum(dim=1)
        own = ((b @ (a @ a.T)) * b).sum(dim=1)
        return base_squared + 2 * scale * cross + scale**2 * own
