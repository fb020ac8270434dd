"""How alike the directions of two runs' updates are (Hu et al. 2021, section 7.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lorakit.reporting.analysis.measures import Numbers, chance_similarity, similarity
from lorakit.reporting.analysis.records import Likeness, SiteLikeness

A, INPUTS, OUTPUTS = "A", "inputs", "outputs"
SIDES = (A, INPUTS, OUTPUTS)


@dataclass(frozen=True)
class SiteDirections:
    """What is kept of a site for the comparison; sides: side -> orthonormal columns in float32, none where there is no such side."""

    layer: int
    role: str
    sides: Mapping[str, torch.Tensor]


def likeness(first: Mapping[str, SiteDirections], second: Mapping[str, SiteDirections]) -> list[Likeness]:
    """Of every side that common sites have in both."""
    found = []
    for side in SIDES:
        common = [
            name for name, site in first.items() if side in site.sides and name in second and side in second[name].sides
        ]
        if common:
            found.append(side_likeness(side, common, first, second))
    return found


def side_likeness(
    side: str, names: Sequence[str], first: Mapping[str, SiteDirections], second: Mapping[str, SiteDirections]
) -> Likeness:
    """That of one side over these sites."""
    grids, chances, sites = [], [], []
    for name in names:
        ours, theirs = (each[name].sides[side].double() for each in (first, second))
        phi = similarity(ours, theirs)
        chance = chance_similarity(ours.shape[1], theirs.shape[1], ours.shape[0])
        k, site = min(phi.shape), first[name]
        ends = [float(grid[place, place]) for place in (0, k - 1) for grid in (phi, chance)]
        sites.append(SiteLikeness(name, site.layer, site.role, k, *ends))
        grids.append(phi)
        chances.append(chance)
    return Likeness(side, mean_grid(grids).tolist(), mean_grid(chances).tolist(), sites)


def mean_grid(grids: Sequence[Numbers]) -> Numbers:
    """The mean of grids (m x n) of different sizes, of each entry over those that have it."""
    shape = [max(grid.shape[axis] for grid in grids) for axis in (0, 1)]
    total, count = np.zeros(shape), np.zeros(shape)
    for grid in grids:
        total[: grid.shape[0], : grid.shape[1]] += grid
        count[: grid.shape[0], : grid.shape[1]] += 1
    return np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
