"""What a parametrisation of a site's update must offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import nn

from lorakit.backbone.site import Site


class Delta(nn.Module, ABC):
    """The update dW of one site's weight W (out x in), without its scale.

    A subclass says what tensors it has before any is made (``shapes``), which role each plays (``roles``) and along which axis of
    each one the rank runs (``rank_axes``): counting, freezing, learning-rate groups, pruning and saving are written
    once from these three.
    """

    roles: ClassVar[dict[str, str]]
    rank_axes: ClassVar[dict[str, int]]
    peft_names: ClassVar[dict[str, str]] = {}
    """What PEFT calls the tensors on disk; empty where PEFT has no such parametrisation."""

    def __init__(self, site: Site, rank: int):
        super().__init__()
        for name, shape in self.shapes(site, rank).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    @classmethod
    @abstractmethod
    def shapes(cls, site: Site, rank: int) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape, for counting before anything is allocated."""

    @abstractmethod
    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``scale * dW x`` for x (..., in) -> (..., out), in factored form."""

    @abstractmethod
    def weight(self) -> torch.Tensor:
        """dW, dense, (out x in): for merging and analysis, never in the hot path."""

    def effective_weight(self, weight: torch.Tensor, scale: float) -> torch.Tensor:
        """W' for the given W (out x in). Additive by default; a multiplicative parametrisation overrides it."""
        return weight + scale * self.weight().to(weight.dtype)

    def row_norms_squared(self, weight: torch.Tensor, base_squared: torch.Tensor, scale: float) -> torch.Tensor:
        """Squared row norms of W' (out,), given those of W; override where the dense product can be avoided."""
        return self.effective_weight(weight, scale).square().sum(dim=1)

    def tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """(name, parameter, role) of every tensor."""
        for name, parameter in self.named_parameters():
            yield name, parameter, self.roles[name]
