"""Virtual tokens in front of the text, computed from embeddings by a small network (P-tuning: Liu et al. 2021, section 3.2).

    P = relu(relu(E W1 + b1) W2 + b2) W3 + b3        E: n x d, W1: d x h, W2: h x h, W3: h x d

n d + 2 d h + h^2 + 2 h + d parameters, h as wide as d unless `hidden` says otherwise. E starts at N(0, 1), the matrices at
U(+-1/sqrt(inputs)), the biases at 0. Matrices are kept as (outputs x inputs).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.prompt import VirtualTokens
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.adapters.starts import linear_uniform, standard_normal, zero
from lorakit.backbone.site import Site


class PromptEncoder(VirtualTokens):
    """Embeddings through two hidden layers."""

    name = "prompt_encoder"
    roles: ClassVar = {
        "embeddings": "prompt",
        **dict.fromkeys(("W1", "b1", "W2", "b2", "W3", "b3"), "encoder"),
    }
    rank_axes: ClassVar = {"embeddings": 0}
    starts: ClassVar = {
        "embeddings": standard_normal,
        **dict.fromkeys(("W1", "W2", "W3"), linear_uniform),
        **dict.fromkeys(("b1", "b2", "b3"), zero),
    }
    options: ClassVar = {"hidden": Option(0, "width of the hidden layers, 0 for that of the embeddings", low=0)}
    embeddings: nn.Parameter
    W1: nn.Parameter
    b1: nn.Parameter
    W2: nn.Parameter
    b2: nn.Parameter
    W3: nn.Parameter
    b3: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """Embeddings (n x d) and the three layers."""
        d = site.in_features
        h = cls.settings_of(options)["hidden"] or d
        return {"embeddings": (rank, d), "W1": (h, d), "b1": (h,), "W2": (h, h), "b2": (h,), "W3": (d, h), "b3": (d,)}

    def tokens(self) -> torch.Tensor:
        """The embeddings through the network."""
        hidden = F.relu(F.linear(self.embeddings, self.W1, self.b1))
        return F.linear(F.relu(F.linear(hidden, self.W2, self.b2)), self.W3, self.b3)


deltas.register(PromptEncoder)
