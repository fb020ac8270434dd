"""Keys and values of virtual tokens, computed by a network that all layers have in common but for its last matrix.

    H = tanh(E W1 + b1);  P_k = H W_k + b_k,  P_v = H W_v + b_v        E: n x d, W1: d x h shared; W_k, W_v: h x width of each layer

n d + d h + h shared parameters and 2 width (h + 1) a layer; d is the width of the keys. The layers' W_k and W_v one below the other
are the last matrix of the paper's MLP. E starts at N(0, 1), matrices at U(+-1/sqrt(inputs)), biases at 0. Kept as (outputs x inputs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.prefix import VirtualStates
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.adapters.shared import Shared
from lorakit.adapters.starts import linear_uniform, standard_normal, zero
from lorakit.backbone.site import Site


class PrefixEncoder(VirtualStates):
    """A shared hidden layer, then a layer's own matrices."""

    name = "prefix_encoder"
    roles: ClassVar = dict.fromkeys(("Wk", "bk", "Wv", "bv"), "encoder")
    shared_roles: ClassVar = {"embeddings": "prefix", "W1": "encoder", "b1": "encoder"}
    starts: ClassVar = {
        "embeddings": standard_normal,
        **dict.fromkeys(("W1", "Wk", "Wv"), linear_uniform),
        **dict.fromkeys(("b1", "bk", "bv"), zero),
    }
    options: ClassVar = {"hidden": Option(512, "width of the hidden layer", low=1)}
    shared: Shared
    Wk: nn.Parameter
    bk: nn.Parameter
    Wv: nn.Parameter
    bv: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """The matrices and biases that give this layer's keys and values."""
        h, key, value = cls.settings_of(options)["hidden"], site.in_features, site.out_features
        return {"Wk": (key, h), "bk": (key,), "Wv": (value, h), "bv": (value,)}

    @classmethod
    def shared_shapes(
        cls, sites: Sequence[Site], rank: int, options: Options = NO_OPTIONS
    ) -> dict[str, tuple[int, ...]]:
        """Embeddings (n x d) and the hidden layer."""
        d, h = max(site.in_features for site in sites), cls.settings_of(options)["hidden"]
        return {"embeddings": (rank, d), "W1": (h, d), "b1": (h,)}

    def states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The first n embeddings through the network."""
        embeddings, w1, b1 = (self.shared.get_parameter(name) for name in ("embeddings", "W1", "b1"))
        hidden = F.linear(embeddings[: self.rank], w1, b1).tanh()
        return F.linear(hidden, self.Wk, self.bk), F.linear(hidden, self.Wv, self.bv)


deltas.register(PrefixEncoder)
