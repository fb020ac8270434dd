"""A small matrix of the site's own between two factors that all sites of one shape share (LoTR: Bershatsky et al. 2024).

dW = B G A        A: rank x in, B: out x rank, shared and trained; G: rank x rank of the site's own
                  rank (in + out) + sites * rank^2 parameters a shape

The paper's L, M and R are B, G and A here. A and B start at N(0, 1) and G at zero. Layers and roles share: q and v of a model with
square projections are one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.core import Core
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.adapters.shared import Shared
from lorakit.adapters.starts import standard_normal
from lorakit.backbone.site import Site


class SharedCore(Core):
    """dW = B G A with A and B shared by all sites of one shape."""

    name = "shared_core"
    roles: ClassVar = {"G": "core"}
    rank_axes: ClassVar = {"G": (0, 1)}
    sliceable: ClassVar = False
    starts: ClassVar = {"G": 0.0, "A": standard_normal, "B": standard_normal}
    shared_roles: ClassVar = {"A": "A", "B": "B"}
    kinds: ClassVar = ("linear", "conv1d")
    takes_factors: ClassVar = False
    shared: Shared

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """G (rank x rank)."""
        return {"G": (rank, rank)}

    @classmethod
    def group(cls, site: Site) -> str:
        """The shape of W."""
        return f"{site.out_features}x{site.in_features}"

    @classmethod
    def shared_shapes(
        cls, sites: Sequence[Site], rank: int, options: Options = NO_OPTIONS
    ) -> dict[str, tuple[int, ...]]:
        """A (rank x in), B (out x rank)."""
        return {"A": (rank, sites[0].in_features), "B": (sites[0].out_features, rank)}

    def matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The shared B and A; their first ``rank`` directions where other sites have a higher rank."""
        return self.shared.get_parameter("B")[:, : self.rank], self.shared.get_parameter("A")[: self.rank]


deltas.register(SharedCore)
