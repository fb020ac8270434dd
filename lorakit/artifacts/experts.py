"""Experts of a mixture that are adapters of finished runs (recipe: adapter.experts): what of each run the mixture has, and remembers.

Their updates are copied into the mixture's own tensors, which are saved with it: what becomes of the runs changes nothing afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lorakit.adapters.adapted_model import AdaptedModel, digest_of
from lorakit.adapters.deltas.centroid_experts import CENTROIDS
from lorakit.adapters.mixture import OfRuns
from lorakit.artifacts.combination import Factors

KEY = "adapter.experts"


@dataclass(frozen=True)
class Expert:
    """The adapter of one run: run: its folder; weights: which of its weights, ``last`` or ``best``; task: what it was trained on;
    updates: site -> (b, a), the update b a of that site's weight, scale included, float64, of the sites in its function; centroid: (width,)
    the mean state of its texts, where the mixture weighs by it.
    """

    run: Path
    weights: str
    task: str
    updates: Mapping[str, Factors]
    centroid: torch.Tensor | None = None

    def __str__(self) -> str:
        """In a line."""
        return f"{self.run} ({self.task}, {self.weights} weights, {len(self.updates)} sites)"

    def told(self) -> dict[str, str]:
        """What the mixture's run remembers of it, with a sha256 of what it takes over."""
        tensors = {f"{site}.B": b for site, (b, _) in self.updates.items()}
        tensors |= {f"{site}.A": a for site, (_, a) in self.updates.items()}
        tensors |= {} if self.centroid is None else {"centroid": self.centroid}
        return {"run": str(self.run), "weights": self.weights, "task": self.task, "digest": digest_of(tensors)}


@torch.no_grad()
def put_in(adapted: AdaptedModel, experts: Sequence[Expert]) -> None:
    """Make the updates of ``experts`` those of the mixtures on all sites, and their centroids; nothing where there are none."""
    for name, adapter in adapted.adapters.items():
        if experts and isinstance(adapter.delta, OfRuns):
            adapter.delta.put_in([expert.updates.get(name) for expert in experts])
    centroids = [expert.centroid for expert in experts if expert.centroid is not None]
    for shared in adapted.shared.values() if centroids else ():
        shared.get_parameter(CENTROIDS).copy_(torch.stack(centroids))


def highest_ranks(experts: Sequence[Expert], sites: Sequence[str]) -> dict[str, int]:
    """Site -> the highest rank that an expert has there, of those of ``sites`` that any has."""
    ranks = {
        name: max((len(expert.updates[name][1]) for expert in experts if name in expert.updates), default=0)
        for name in sites
    }
    return {name: rank for name, rank in ranks.items() if rank}
