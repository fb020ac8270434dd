"""A dense update behind a gate for each weight, to be pruned to a sparse one (Diff pruning: Guo et al. 2021, section 3).

dW = z * w        w: out x in, 0 at start;  gate: out x in, the logits of z, OPEN at start;  2 out in parameters

z is hard-concrete: clamp(sigmoid(noise + gate) (HIGH - LOW) + LOW, 0, 1) with logistic noise while the gates train, none
otherwise. As LOW < 0 and HIGH > 1, it is exactly 0 or 1 most of the time. ``keep_only`` ends that: gates shut for good, or open.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import deltas
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.adapters.whole import Whole
from lorakit.backbone.site import Site

Tensor = torch.Tensor

LOW, HIGH = -1.5, 1.5
OPEN = 5.0
GATES_FASTER = 2000.0
"""The authors' learning rate of the gates, 0.1, over a usual one of w."""
FOR_GOOD = 1e4
"""A logit beyond the reach of any noise."""


class Sparse(Whole):
    """dW = z * w with w and the logits of z (out x in)."""

    name = "sparse"
    roles: ClassVar = {"w": "weight", "gate": "gate"}
    starts: ClassVar = {"w": 0.0, "gate": OPEN}
    lr_factors: ClassVar = {"gate": GATES_FASTER}
    free_rank: ClassVar = True
    kinds: ClassVar = ("linear", "conv1d")
    w: nn.Parameter
    gate: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """w and gate (out x in)."""
        shape = (site.out_features, site.in_features)
        return {"w": shape, "gate": shape}

    def whole(self, scale: float) -> Tensor:
        """``scale (z * w)`` (out x in), with noise while the gates train."""
        sampled = self.training and self.gate.requires_grad
        logits = self.gate + torch.rand_like(self.gate).logit() if sampled else self.gate
        return scale * stretch(logits) * self.w

    def dense(self) -> Tensor:
        """z * w (out x in), without noise."""
        return stretch(self.gate) * self.w

    def expected_open(self) -> Tensor:
        """The expected number of gates that are not zero, a scalar."""
        return torch.sigmoid(self.gate - math.log(-LOW / HIGH)).sum()

    @torch.no_grad()
    def keep_only(self, kept: Tensor) -> None:
        """Keep dW where ``kept`` (out x in, bool) holds, with its gate open for good, and nothing elsewhere."""
        self.w.copy_(self.dense() * kept)
        self.gate.copy_(torch.where(kept, FOR_GOOD, -FOR_GOOD))


def stretch(logits: Tensor) -> Tensor:
    """A sigmoid stretched to (LOW, HIGH) and cut to [0, 1]."""
    return (torch.sigmoid(logits) * (HIGH - LOW) + LOW).clamp(0, 1)


deltas.register(Sparse)
