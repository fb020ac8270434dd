"""Vectors around two random matrices that all sites share (VeRA: Kopiczko et al. 2024, section 3).

dW = diag(b) B diag(d) A        A: rank x in, B: out x rank shared; d: rank, b: out of the site's own

The shared A is as wide, and the shared B as tall, as the largest site; a site takes the first columns and rows of them.
Both are kaiming-uniform with gain sqrt(2), as in PEFT; d starts at 0.1 and b at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.vectors import D_START, Vectors
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.adapters.shared import Shared
from lorakit.adapters.starts import he_uniform
from lorakit.backbone.site import Site


class SharedVectors(Vectors):
    """dW = diag(b) B diag(d) A with A and B shared by all sites."""

    name = "shared_vectors"
    roles: ClassVar = {"d": "vector", "b": "vector"}
    rank_axes: ClassVar = {"d": 0}
    sliceable: ClassVar = False
    starts: ClassVar = {"d": D_START, "b": 0.0, "A": he_uniform, "B": he_uniform}
    shared_roles: ClassVar = {"A": "A", "B": "B"}
    free_rank: ClassVar = True
    kinds: ClassVar = ("linear", "conv1d")
    takes_factors: ClassVar = False
    shared: Shared

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """d (rank), b (out)."""
        return {"d": (rank,), "b": (site.out_features,)}

    @classmethod
    def shared_shapes(
        cls, sites: Sequence[Site], rank: int, options: Options = NO_OPTIONS
    ) -> dict[str, tuple[int, ...]]:
        """A (rank x widest in), B (tallest out x rank)."""
        return {
            "A": (rank, max(site.in_features for site in sites)),
            "B": (max(site.out_features for site in sites), rank),
        }

    def matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """This site's part of the shared B and A."""
        b = self.shared.get_parameter("B")[: self.site.out_features, : self.rank]
        return b, self.shared.get_parameter("A")[: self.rank, : self.site.in_features]


deltas.register(SharedVectors)
