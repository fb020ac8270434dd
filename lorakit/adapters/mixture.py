"""Mixtures: several experts on one site, weighed anew for every token by a router.

    y = W x + b + s sum_e p_e(x) D_e x        R: experts x in;  p(x) = softmax(R x);  D_e: expert e's update

With ``top_k`` the softmax is over a token's so many largest logits, and the other experts are left out of the sum. A row's answer depends
on its own tokens alone. No one matrix says the same, so that nothing of it merges. What spreads the tokens over the experts while they
train is an update, `load_balance`.

Experts may be the adapters of finished runs (recipe: adapter.experts), whose updates s_e B_e A_e stand in A and B as they are, scale
included, and never train. Experts of lower ranks, and those that have nothing on a site, leave zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.declaration import START
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
    def misfit(cls, rank: int, options: Options = NO_OPTIONS) -> str:
        """A token has no more experts than there are."""
        return too_few(**{name: cls.settings_of(options)[name] for name in ("experts", "top_k")})

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


def too_few(experts: int, top_k: int) -> str:
    """Why a token cannot have its ``top_k`` experts, empty where it can."""
    return f"a token goes to {top_k} experts (top_k={top_k}), and there are {experts}" if top_k > experts else ""


def sum_of_experts(
    x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor, experts: int
) -> torch.Tensor:
    """``sum_e w_e B_e A_e x`` for x (..., in) and w (..., experts); a (experts rank x in) and b (out x experts rank) hold all A_e, B_e."""
    narrow = F.linear(x, a).unflatten(-1, (experts, -1))
    return F.linear((narrow * weights[..., None]).flatten(-2), b)


class OfRuns(Delta):
    """Experts that are adapters of finished runs: A (experts rank x in) and B (out x experts rank), which never train.

    What they start as is a stand-in until ``put_in``.
    """

    roles: ClassVar = {"A": START, "B": START}
    starts: ClassVar = {"A": linear_uniform, "B": linear_uniform}
    A: nn.Parameter
    B: nn.Parameter

    @torch.no_grad()
    def put_in(self, updates: Sequence[tuple[torch.Tensor, torch.Tensor] | None]) -> None:
        """Make the experts these updates b a, of at most ``rank`` each; None for one that has none here."""
        self.A.zero_()
        self.B.zero_()
        for first, update in zip(range(0, len(self.A), self.rank), updates, strict=True):
            if update is not None:
                b, a = update
                self.A[first : first + len(a)] = a
                self.B[:, first : first + len(a)] = b


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
