"""Virtual tokens of one attention layer: keys and values of their own that every token of the text can attend to.

    Attn(q, [P_k; K], [P_v; V])        P_k: n x key width, P_v: n x value width,  2 n width parameters a layer

n is the recipe's rank. Widths are those of the layer's key and value states, which grouped-query attention keeps narrower than the
model. Both start at N(0, std^2): no start at all would leave the pretrained function unchanged, as even zero keys take their share of
the attention.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.adapters.starts import standard_normal
from lorakit.backbone.site import Site

PREFIX = "prefix"


class VirtualStates(Delta):
    """n keys and n values in front of a layer's own, wherever they come from."""

    free_rank: ClassVar = True
    kinds: ClassVar = ("layer",)
    additive: ClassVar = False
    unmergeable: ClassVar = "virtual tokens are not weights"

    @classmethod
    def refusal(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> str:
        """It belongs into an attention."""
        return "" if site.role == PREFIX else "it is no attention that virtual tokens could stand in"

    @abstractmethod
    def states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (n x key width) and values (n x value width)."""

    def in_front(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The text's states (batch, heads, length, head width) with its own in front, in their dtype."""
        own_keys, own_values = self.states()
        return before(own_keys, keys), before(own_values, values)


class Prefix(VirtualStates):
    """The keys and values themselves."""

    name = "prefix"
    roles: ClassVar = {"keys": "prefix", "values": "prefix"}
    rank_axes: ClassVar = {"keys": 0, "values": 0}
    starts: ClassVar = {"keys": standard_normal, "values": standard_normal}
    options: ClassVar = {"std": Option(1.0, "standard deviation of the keys and values at start", low=0.0)}
    keys: nn.Parameter
    values: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """Keys (n x key width) and values (n x value width)."""
        return {"keys": (rank, site.in_features), "values": (rank, site.out_features)}

    @torch.no_grad()
    def put_at_start(self, generator: torch.Generator) -> None:
        """N(0, std^2)."""
        super().put_at_start(generator)
        for parameter in self.parameters():
            parameter.mul_(self.settings["std"])

    def states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both as they are."""
        return self.keys, self.values


def before(rows: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """``rows`` (n x heads * head width) split into heads, in front of ``states`` (batch, heads, length, head width)."""
    batch, heads, _, width = states.shape
    split = rows.to(states.dtype).view(1, -1, heads, width).transpose(1, 2)
    return torch.cat([split.expand(batch, -1, -1, -1), states], dim=2)


deltas.register(Prefix)
