"""Mixtures: several experts on one site, weighed anew for every token by a router.

    y = W x + b + s sum_e p_e(x) D_e x        R: experts x in;  p(x) = softmax(R x);  D_e: expert e's update

With ``top_k`` the softmax is over a token's so many largest logits, and the other experts are left out of the sum. A row's answer depends
on its own tokens alone. No one matrix says the same, so that nothing of it merges. What spreads the tokens over the experts while they
train is an update, `load_balance`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.delta import Delta
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.adapters.shared import Shared
from lorakit.adapters.starts import linear_uniform
from lorakit.backbone.site import Site

Listener = Callable[[torch.Tensor], None]
"""Is given the router's logits (..., experts) of every pass."""
DEVIATION = 0.02
NORMAL = "normal"


def small_normal(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """N(0, 0.02^2)."""
    tensor.normal_(0.0, DEVIATION, generator=generator)


class Mixture(Delta):
    """A delta whose experts a router ``R`` (experts x width of what it reads) weighs token by token."""

    options: ClassVar = {
        "experts": Option(4, "how many experts a site has", low=2),
        "top_k": Option(0, "experts a token is computed by, those of its largest logits; 0: all", low=0),
    }
    kinds: ClassVar = ("linear", "conv1d")
    unmergeable: ClassVar = "its experts are weighed anew for every token, and no one matrix says the same"
    R: nn.Parameter

    def __init__(self, site: Site, rank: int, options: Options = NO_OPTIONS, shared: Shared | None = None):
        super().__init__(site, rank, options, shared)
        self.experts: int = self.settings["experts"]
        self.listener: Listener | None = None

    @classmethod
    def refusal(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> str:
        """A token has no more experts than there are."""
        settings = cls.settings_of(options)
        experts, top = settings["experts"], settings["top_k"]
        return f"a token goes to {top} experts (top_k={top}), and there are {experts}" if top > experts else ""

    def route(self, x: torch.Tensor) -> torch.Tensor:
        """The experts' weights p (..., experts), which sum to 1, for x (..., width)."""
        logits = F.linear(x, self.R)
        if self.listener is not None:
            self.listener(logits)
        top = self.settings["top_k"]
        if not top:
            return logits.softmax(dim=-1)
        kept = logits.topk(top, dim=-1)
        weights = kept.values.softmax(dim=-1)
        return torch.zeros_like(logits, dtype=weights.dtype).scatter(-1, kept.indices, weights)


class LowRankMixture(Mixture):
    """A mixture of products of thin matrices. B starts at zero, A and R as torch's linear layers or N(0, 0.02^2)."""

    roles: ClassVar = {"A": "A", "B": "B", "R": "router"}
    starts: ClassVar = {"A": linear_uniform, "B": 0.0, "R": linear_uniform}
    options: ClassVar = {
        **Mixture.options,
        "start": Option("kaiming", "A, R ~ U(+-1/sqrt(in)), or N(0, 0.02^2)", choices=("kaiming", NORMAL)),
    }
    A: nn.Parameter
    B: nn.Parameter

    def put_at_start(self, generator: torch.Generator) -> None:
        """B at zero, A and R drawn."""
        super().put_at_start(generator)
        if self.settings["start"] == NORMAL:
            for tensor in (self.A.data, self.R.data):
                small_normal(tensor, generator)
