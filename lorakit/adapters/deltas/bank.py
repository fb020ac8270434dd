"""LoRA's two factors put together from one bank of short vectors that all sites share (VB-LoRA: Li et al. 2024).

dW = B A        A: rank x in, of in/l pieces a row; B: out x rank, of out/l pieces a column
                piece = sum over the k largest logits of softmax(those logits) * row of the bank

bank: h x l, shared; logits of A: rank x in/l x h, of B: out/l x rank x h. h l parameters once, h rank (in + out) / l a site.
The bank starts U(-0.02, 0.02) and the logits N(0, 0.1^2), as in PEFT: dW is small at the start, but it is not zero. No zero start is
possible here: a bank of zeros would get no gradient, and a single piece cannot be zero while the bank is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.block_diagonal import divisors
from lorakit.adapters.factored import Factored
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.adapters.shared import Shared
from lorakit.backbone.site import Site

BANK_BOUND, LOGITS_DEVIATION = 0.02, 0.1


def small_uniform(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """U(-0.02, 0.02)."""
    tensor.uniform_(-BANK_BOUND, BANK_BOUND, generator=generator)


def small_normal(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """N(0, 0.1^2)."""
    tensor.normal_(0.0, LOGITS_DEVIATION, generator=generator)


class Bank(Factored):
    """dW = B A with pieces of A's rows and of B's columns from a shared bank; A and B are their logits."""

    name = "bank"
    roles: ClassVar = {"A": "logits", "B": "logits"}
    rank_axes: ClassVar = {"A": 0, "B": 1}
    starts: ClassVar = {"A": small_normal, "B": small_normal, "bank": small_uniform}
    options: ClassVar = {
        "vectors": Option(128, "vectors in the bank (h)", low=1),
        "length": Option(128, "numbers in a vector (l), a divisor of every adapted width", low=1),
        "top": Option(2, "vectors mixed in a piece (k)", low=1),
    }
    shared_roles: ClassVar = {"bank": "bank"}
    kinds: ClassVar = ("linear", "conv1d")
    shared: Shared
    A: nn.Parameter
    B: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """The logits of A (rank x in/l x h) and of B (out/l x rank x h)."""
        settings = cls.settings_of(options)
        h, length = settings["vectors"], settings["length"]
        return {"A": (rank, site.in_features // length, h), "B": (site.out_features // length, rank, h)}

    @classmethod
    def shared_shapes(
        cls, sites: Sequence[Site], rank: int, options: Options = NO_OPTIONS
    ) -> dict[str, tuple[int, ...]]:
        """bank (h x l)."""
        settings = cls.settings_of(options)
        return {"bank": (settings["vectors"], settings["length"])}

    @classmethod
    def refusal(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> str:
        """Both widths fall into pieces."""
        length, common = cls.settings_of(options)["length"], math.gcd(site.in_features, site.out_features)
        if common % length == 0:
            return ""
        return f"its widths do not fall into pieces of {length} (length={length}); {divisors(common)} would do"

    @classmethod
    def misfit(cls, rank: int, options: Options = NO_OPTIONS) -> str:
        """The bank holds as many vectors as a piece mixes."""
        settings = cls.settings_of(options)
        h, top = settings["vectors"], settings["top"]
        return f"a piece mixes {top} vectors (top={top}), and the bank has {h}" if top > h else ""

    def pieces(self, logits: torch.Tensor) -> torch.Tensor:
        """The mixtures (... x l) for logits (... x h)."""
        chosen = logits.topk(self.settings["top"], dim=-1)
        vectors = self.shared.get_parameter("bank")[chosen.indices]
        return (chosen.values.softmax(dim=-1)[..., None] * vectors).sum(dim=-2)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B (out x rank) and A (rank x in)."""
        return self.pieces(self.B).transpose(1, 2).flatten(0, 1), self.pieces(self.A).flatten(1)


deltas.register(Bank)
