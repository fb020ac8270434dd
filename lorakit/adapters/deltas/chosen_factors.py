"""Pools of single factors, of which every row of text takes its own LoRA (Conditional Mixture-of-LoRA: Shen et al. 2024).

dW = sum_j v_j u_j b_j a_j^T, j = 1 ... rank        A: experts x in, B: experts x out, the pools;  h: in, the mean of the row's tokens

    a_j: the rank rows of A with the largest logits R_A h,  u = rank softmax(those logits)
    b_j: the rank rows of B with the largest softmax(R_B h) + sum_j softmax(R_AB,j u_j a_j),  v = rank softmax(those sums)

R_A, R_B: experts x in;  R_AB: experts x rank in.   experts (3 in + out + rank in) parameters a site

Factors are paired in the order of their logits. u and v have mean 1: with routers that do not choose, dW is LoRA's of that rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.adapters.row_mask import RowMask, RowMaskWiring, mean_of
from lorakit.adapters.shared import Shared
from lorakit.adapters.starts import linear_uniform
from lorakit.backbone.site import Site

if TYPE_CHECKING:
    from lorakit.adapters.adapter import Adapter


class ChosenFactors(Delta):
    """dW = b a of factors that a row chooses from the pools A (experts x in) and B (experts x out), and weighs."""

    name = "chosen_factors"
    roles: ClassVar = {"A": "A", "B": "B", "R_A": "router", "R_B": "router", "R_AB": "router"}
    starts: ClassVar = {**dict.fromkeys(("A", "R_A", "R_B", "R_AB"), linear_uniform), "B": 0.0}
    options: ClassVar = {"experts": Option(16, "how many factors each of a site's two pools has", low=2)}
    kinds: ClassVar = ("linear", "conv1d")
    unmergeable: ClassVar = "its factors are chosen anew for every row, and no one matrix says the same"
    pools_rows: ClassVar = True
    A: nn.Parameter
    B: nn.Parameter
    R_A: nn.Parameter
    R_B: nn.Parameter
    R_AB: nn.Parameter

    def __init__(self, site: Site, rank: int, options: Options = NO_OPTIONS, shared: Shared | None = None):
        super().__init__(site, rank, options, shared)
        self.row_mask = RowMask()

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (experts x in), B (experts x out), R_A and R_B (experts x in), R_AB (experts x rank in)."""
        experts, width = cls.settings_of(options)["experts"], site.in_features
        own = dict.fromkeys(("A", "R_A", "R_B"), (experts, width))
        return {**own, "B": (experts, site.out_features), "R_AB": (experts, rank * width)}

    @classmethod
    def misfit(cls, rank: int, options: Options = NO_OPTIONS) -> str:
        """No more factors are chosen than there are."""
        experts = cls.settings_of(options)["experts"]
        return f"a row takes {rank} factors (its rank), and there are {experts} (experts)" if rank > experts else ""

    @classmethod
    def wiring(cls, model: nn.Module, adapters: Sequence[Adapter]) -> RowMaskWiring:
        """Padding is no part of a row's mean."""
        return RowMaskWiring(model, adapters)

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``b (scale a x)`` for every token x, with the a (rank x in) and b (out x rank) of its row."""
        text = self.row_mask.of(x)
        rows = x.reshape(*text.shape, -1)
        with torch.autocast(x.device.type, enabled=False):
            a, b = self.chosen(mean_of(rows.to(self.A.dtype), text))
        return (rows @ a.mT * scale @ b).view(*x.shape[:-1], -1)

    def chosen(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The factors a (rows x rank x in) and b (rows x rank x out), weighed, for h (rows x in)."""
        a = self.pick(F.linear(h, self.R_A)) @ self.A
        by_slot = self.R_AB.view(-1, self.rank, self.site.in_features)
        agreeing = torch.einsum("nri,eri->nre", a, by_slot).softmax(dim=-1).sum(dim=1)
        return a, self.pick(F.linear(h, self.R_B).softmax(dim=-1) + agreeing) @ self.B

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """(rows x rank x experts) One number in each line, at one of the largest of ``logits`` (rows x experts): its weight."""
        largest = logits.topk(self.rank, dim=-1)
        weights = self.rank * largest.values.softmax(dim=-1)
        empty = logits.new_zeros(len(logits), self.rank, logits.shape[-1])
        return empty.scatter(-1, largest.indices[..., None], weights[..., None])


deltas.register(ChosenFactors)
