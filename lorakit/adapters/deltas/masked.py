"""LoRA's product in a layer some of whose outputs are closed (LoRAPrune: Zhang et al. 2023, section 3).

    y = kept o (W x + b + s B A x)        kept: out, ones and zeros, never trained; A: rank x in, B: out x rank
    W' = diag(kept) (W + s B A), b' = kept o b

Only sites of the roles `up` and `v` have a mask: what they give is an MLP's channels and attention's values, and where one is 0 the rest
of the layer does as if it were not there (``backbone.channels``). All other sites are LoRA. Nothing is closed at the start; the update
`prune_channels` closes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.declaration import START
from lorakit.adapters.delta import Layer, deltas
from lorakit.adapters.factored import Factored
from lorakit.adapters.ops.thin import thin_product
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.adapters.shared import Shared
from lorakit.backbone.channels import SILENCED
from lorakit.backbone.site import Site


class Masked(Factored):
    """W' = diag(kept) (W + s B A)."""

    name = "masked"
    roles: ClassVar = {"A": "A", "B": "B", "kept": START}
    starts: ClassVar = {"B": 0.0, "kept": 1.0}
    rank_axes: ClassVar = {"A": 0, "B": 1}
    sliceable: ClassVar = True
    kinds: ClassVar = ("linear", "conv1d")
    additive: ClassVar = False
    branches: ClassVar = True
    A: nn.Parameter
    B: nn.Parameter
    kept: nn.Parameter

    def __init__(self, site: Site, rank: int, options: Options = NO_OPTIONS, shared: Shared | None = None):
        super().__init__(site, rank, options, shared)
        self.masks = has_mask(site)
        if not self.masks:
            self.__dict__["additive"] = True  # a LoRA, and computed as one

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x rank), and kept (out,) where the outputs can be closed."""
        factors = {"A": (rank, site.in_features), "B": (site.out_features, rank)}
        return {**factors, "kept": (site.out_features,)} if has_mask(site) else {**factors}

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B and A, of all outputs."""
        return self.tensor("B"), self.tensor("A")

    def is_zero(self) -> bool:
        """Whether B A is zero and nothing is closed."""
        return super().is_zero() and not self.closed_outputs()

    def closed_outputs(self) -> int:
        """How many outputs are closed."""
        return int((self.kept == 0).sum()) if self.masks else 0

    def open_groups(self, size: int) -> torch.Tensor:
        """Of every ``size`` outputs side by side, whether they are open (out / size,)."""
        return self.kept.detach()[::size] != 0

    @torch.no_grad()
    def leave_open(self, groups: torch.Tensor, size: int) -> None:
        """Close every ``size`` outputs side by side where ``groups`` (out / size,) is false."""
        self.kept.copy_(groups.repeat_interleave(size))

    def layer_forward(self, layer: Layer, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``kept o (W x + b + s B A x)``, in the layer's own dtype."""
        b, a = self.factors()
        base = layer.frozen_forward(x)
        out = thin_product(layer.dropout(x.to(a.dtype)), a, b, scale, base)
        return (out * self.kept).to(base.dtype)

    def effective_weight(self, weight: torch.Tensor, scale: float) -> torch.Tensor:
        """W + s B A, with rows of zeros where outputs are closed."""
        whole = super().effective_weight(weight, scale)
        return whole * self.kept.to(weight.dtype)[:, None] if self.masks else whole

    def effective_bias(self, weight: torch.Tensor, bias: torch.Tensor | None, scale: float) -> torch.Tensor | None:
        """b, 0 where outputs are closed."""
        return bias * self.kept.to(bias.dtype) if self.masks and bias is not None else bias


def has_mask(site: Site) -> bool:
    """Whether what the site gives is an MLP's channels, or attention's values."""
    return site.role in SILENCED.values()


deltas.register(Masked)
