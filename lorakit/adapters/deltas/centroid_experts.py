"""The adapters of finished runs side by side, weighed by how near a text is to the texts of each run (Belofsky 2023).

dW x = sum_e p_e B_e A_e x        B_e A_e: the update of run e, its scale included;  p = softmax(cos(h, c_e) / T)

h: the mean of a row's last states in a pass without adapters;  c_e: the mean of h over training rows of run e.  Nothing of it trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from lorakit.adapters.declaration import START
from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.scaled_experts import ScaledExperts, states_width
from lorakit.adapters.mixture import OfRuns
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.adapters.row_mask import mean_of
from lorakit.adapters.starts import standard_normal
from lorakit.backbone.site import Site

CENTROIDS = "C"


class CentroidExperts(ScaledExperts):
    """Experts that are weighed by the cosine of a row's mean state with their centroids C (experts x width)."""

    name = "centroid_experts"
    over_runs: ClassVar = "centroid_experts"
    shared_roles: ClassVar = {CENTROIDS: START}
    starts: ClassVar = {**OfRuns.starts, CENTROIDS: standard_normal}
    options: ClassVar = {
        "experts": ScaledExperts.options["experts"],
        "temperature": Option(1.0, "T, what cosines are divided by: below 1 the nearest run counts for more", above=0),
    }

    @classmethod
    def shared_shapes(
        cls, sites: Sequence[Site], rank: int, options: Options = NO_OPTIONS
    ) -> dict[str, tuple[int, ...]]:
        """C (experts x width)."""
        return {CENTROIDS: (cls.settings_of(options)["experts"], states_width(sites[0]))}

    @classmethod
    def misfit(cls, rank: int, options: Options = NO_OPTIONS) -> str:
        """There is none."""
        return ""

    @classmethod
    def weights(
        cls,
        head: Mapping[str, torch.Tensor],
        settings: Mapping[str, Any],
        states: torch.Tensor,
        text: torch.Tensor,
        *,
        training: bool,
    ) -> torch.Tensor:
        """p (rows, tokens, 1, experts) for states (rows, tokens, width): the same for all tokens of a row."""
        near = F.cosine_similarity(mean_of(states, text)[:, None], head[CENTROIDS], dim=-1)
        shares = (near / settings["temperature"]).softmax(dim=-1)
        return shares[:, None, None].expand(-1, states.shape[1], -1, -1)


deltas.register(CentroidExperts)
