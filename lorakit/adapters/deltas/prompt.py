"""Virtual tokens in front of the text: embeddings that train (Lester et al. 2021, section 2).

    [P; E(x)]        P: n x d, d the width of the token embeddings,  n d parameters for the whole model

n is the recipe's rank. P starts as the embeddings of random tokens (vocab), or normal with as large a deviation as the embeddings
have (random).
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

PROMPT = "prompt"


class VirtualTokens(Delta):
    """Embeddings (n x d) that stand in front of the text's."""

    free_rank: ClassVar = True
    kinds: ClassVar = ("input",)
    additive: ClassVar = False
    unmergeable: ClassVar = "virtual tokens are not weights"

    @classmethod
    def refusal(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> str:
        """It belongs in front of the text."""
        return "" if site.role == PROMPT else "it is not the input"

    @abstractmethod
    def tokens(self) -> torch.Tensor:
        """The virtual tokens' embeddings (n x d)."""

    def start_from(self, table: torch.Tensor) -> None:
        """Take from the model's token embeddings (vocabulary x d) what the start needs of them: called once, on a fresh site."""


class Prompt(VirtualTokens):
    """The embeddings themselves."""

    name = PROMPT
    roles: ClassVar = {"embeddings": "prompt"}
    rank_axes: ClassVar = {"embeddings": 0}
    starts: ClassVar = {"embeddings": standard_normal}
    options: ClassVar = {
        "start": Option("vocab", "embeddings of random tokens, or normal", choices=("vocab", "random")),
    }
    embeddings: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """Embeddings (n x d)."""
        return {"embeddings": (rank, site.in_features)}

    def put_at_start(self, generator: torch.Generator) -> None:
        """Draw the normal start, and which tokens the other one takes: as shares of a vocabulary that is not known yet."""
        super().put_at_start(generator)
        self.picked = torch.rand(self.rank, generator=generator).tolist()

    @torch.no_grad()
    def start_from(self, table: torch.Tensor) -> None:
        """The tokens drawn, or the normal start as large as the table's."""
        if self.settings["start"] == "vocab":
            self.embeddings.copy_(table[[int(share * len(table)) for share in self.picked]])
        else:
            self.embeddings.mul_(table.float().std())

    def tokens(self) -> torch.Tensor:
        """The embeddings as they are."""
        return self.embeddings


deltas.register(Prompt)
