"""Updates that are computed whole in every pass, so that the layer may be one product, with W + s dW."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch.nn import functional as F

from lorakit.adapters.delta import Delta


class Whole(Delta):
    """dW of any rank, which a subclass computes from its tensors."""

    @abstractmethod
    def whole(self, scale: float) -> torch.Tensor:
        """``scale * dW`` (out x in), as the pass at hand has it."""

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``(scale dW) x``."""
        return F.linear(x, self.whole(scale))

    def dense(self) -> torch.Tensor:
        """dW (out x in)."""
        return self.whole(1.0)
