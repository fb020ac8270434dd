"""A small network of two layers behind a projection (Houlsby et al. 2019, section 2.1).

y' = y + U g(D y + b_down) + b_up        y = W x + b: out;  D: m x out, U: out x m, b_down: m, b_up: out; m is the rank
                                         2 m out + out + m parameters

D starts truncated normal as in the paper, U and the biases at zero, so that y' = y exactly. It computes in its own dtype: float32
also where W is kept in half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.delta import Delta, Layer, deltas
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.backbone.site import Site

DEVIATION = 0.01
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


def truncated_normal(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """N(0, 0.01^2) cut off at two deviations."""
    nn.init.trunc_normal_(tensor, 0.0, DEVIATION, -2 * DEVIATION, 2 * DEVIATION, generator=generator)


class Bottleneck(Delta):
    """y + U g(D y + b_down) + b_up on a projection's output y."""

    name = "bottleneck"
    roles: ClassVar = {"D": "A", "U": "B", "b_down": "bias", "b_up": "bias"}
    rank_axes: ClassVar = {"D": 0, "b_down": 0, "U": 1}
    starts: ClassVar = {"D": truncated_normal, "U": 0.0, "b_down": 0.0, "b_up": 0.0}
    options: ClassVar = {"activation": Option("gelu", "what is between D and U (g)", choices=tuple(ACTIVATIONS))}
    free_rank: ClassVar = True
    kinds: ClassVar = ("linear", "conv1d")
    additive: ClassVar = False
    unmergeable: ClassVar = "a bottleneck is not linear"
    last: ClassVar[str] = "U"
    """The tensor whose zero start keeps U at zero."""
    b_down: nn.Parameter
    b_up: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """D (m x out), U (out x m), b_down (m), b_up (out)."""
        return {"D": (rank, site.out_features), "U": (site.out_features, rank)} | cls.biases(site, rank)

    @classmethod
    def biases(cls, site: Site, rank: int) -> dict[str, tuple[int, ...]]:
        """b_down (m), b_up (out)."""
        return {"b_down": (rank,), "b_up": (site.out_features,)}

    @classmethod
    def stuck(cls, trains: Callable[[str], bool]) -> str:
        """U alone: without it b_up would be all that moves."""
        return "" if trains(cls.roles[cls.last]) else cls.last

    def is_zero(self) -> bool:
        """Whether U and b_up are zero."""
        return not self.get_parameter(self.last).any() and not self.b_up.any()

    def matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """D (m x out) and U (out x m)."""
        return self.tensor("D"), self.tensor("U")

    def layer_forward(self, layer: Layer, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``y + U g(D y + b_down) + b_up``, in y's dtype."""
        y = layer.frozen_forward(x)
        (down, up), b_down = self.matrices(), self.tensor("b_down")
        narrow = ACTIVATIONS[self.settings["activation"]](F.linear(y.to(b_down.dtype), down, b_down))
        return y + F.linear(narrow, up, self.b_up).to(y.dtype)


deltas.register(Bottleneck)
