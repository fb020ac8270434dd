"""LoRAs of several tasks side by side, weighed for every token by an attention over what they say.

    dW x = sum_e p_e B_e A_e x              p_e = exp(z_e) / (1 + sum_i exp(z_i))       1: a zero LoRA, whose z is 0
    z_e = f(w_e h_e), h_e = s B_e A_e x     A_e: each x in, B_e: out x each, w_e: a row of R (rank / each x out); f: tanh or ReLU

The A_e stand one upon the other in A (rank x in), the B_e side by side in B (out x rank), of which `each` rank units are one LoRA's:
rank (in + out) + out rank / each parameters. No h_e is built: w_e B_e is a row of `each` numbers, and z_e its product with s A_e x.
B starts at zero. A row of R reads nothing while its B_e is zero, and that LoRA's weight is as that of the zero one.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.adapters.starts import linear_uniform
from lorakit.backbone.site import Site

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


class Attended(Delta):
    """dW x = sum_e p_e B_e A_e x with A (rank x in), B (out x rank) and R (rank / each x out)."""

    name = "attended"
    roles: ClassVar = {"A": "A", "B": "B", "R": "router"}
    starts: ClassVar = {"B": 0.0, "R": linear_uniform}
    options: ClassVar = {
        "each": Option(0, "rank units of one task's LoRA; 0: all are one LoRA's", low=0),
        "activation": Option("tanh", "f, of the attention's scores", choices=tuple(ACTIVATIONS)),
    }
    kinds: ClassVar = ("linear", "conv1d")
    unmergeable: ClassVar = "its LoRAs are weighed anew for every token, and no one matrix says the same"
    A: nn.Parameter
    B: nn.Parameter
    R: nn.Parameter

    @classmethod
    def loras(cls, rank: int, options: Options = NO_OPTIONS) -> int:
        """How many LoRAs so many rank units are."""
        return rank // (cls.settings_of(options)["each"] or rank)

    @classmethod
    def misfit(cls, rank: int, options: Options = NO_OPTIONS) -> str:
        """The LoRAs are of one rank."""
        each = cls.settings_of(options)["each"]
        return f"{rank} rank units are no whole number of LoRAs of {each} (each={each})" if each and rank % each else ""

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x rank), R (LoRAs x out)."""
        return {
            "A": (rank, site.in_features),
            "B": (site.out_features, rank),
            "R": (cls.loras(rank, options), site.out_features),
        }

    def weights(self, narrow: torch.Tensor) -> torch.Tensor:
        """p (..., LoRAs) without the zero LoRA's, for ``s A_e x`` (..., LoRAs, each)."""
        keys = torch.einsum("eo,oeu->eu", self.R, self.B.unflatten(1, narrow.shape[-2:]))
        scores = ACTIVATIONS[self.settings["activation"]]((narrow * keys).sum(dim=-1))
        return F.pad(scores, (1, 0)).softmax(dim=-1)[..., 1:]

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``sum_e p_e B_e (scale A_e x)``."""
        narrow = scale * F.linear(x, self.A).unflatten(-1, (len(self.R), -1))
        return F.linear((narrow * self.weights(narrow)[..., None]).flatten(-2), self.B)


deltas.register(Attended)
