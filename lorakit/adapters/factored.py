"""Updates that are a product of two thin matrices, however those come about."""

from __future__ import annotations

from abc import abstractmethod

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.ops.thin import thin_product


class Factored(Delta):
    """dW = b a for the ``factors`` b (out x r) and a (r x in), which a subclass computes from its tensors."""

    @abstractmethod
    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """b (out x r) and a (r x in)."""

    @property
    def by_factors(self) -> bool:
        """Whether it computes with its factors as they are."""
        return type(self).forward is Factored.forward

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``b (scale a x)``."""
        b, a = self.factors()
        return thin_product(x, a, b, scale)

    def added(self, base: torch.Tensor, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``base + b (scale a x)``, in one go where the product is that of the factors."""
        if not self.by_factors:
            return super().added(base, x, scale)
        b, a = self.factors()
        return thin_product(x, a, b, scale, base)

    def dense(self) -> torch.Tensor:
        """b a (out x in)."""
        b, a = self.factors()
        return b @ a

    @torch.no_grad()
    def is_zero(self) -> bool:
        """Whether one of the two is zero, wherever its tensors started."""
        b, a = self.factors()
        return not b.any() or not a.any()

    def row_norms_squared(self, weight: torch.Tensor, base_squared: torch.Tensor, scale: float) -> torch.Tensor:
        """``|W + s b a|^2 = |W|^2 + 2s <W, b a> + s^2 |b a|^2`` row by row, without building b a."""
        b, a = self.factors()
        cross = ((a.to(weight.dtype) @ weight.T).T * b).sum(dim=1)
        own = ((b @ (a @ a.T)) * b).sum(dim=1)
        return base_squared + 2 * scale * cross + scale**2 * own
