"""Are the scores of sites signal or noise? Two halves of the training rows score apart, and a shuffled ranking is the control.

    correlation   Spearman's, between the scores of a site by one half and by the other
    caught        sum over sites of w * score by the other half, over the sum of all scores: w is the share of its full rank that a site
                  gets from the one half's scores
    p             the share of SHUFFLES rankings, each site's w given to another site of its role, that catch as much or more

Sites of a role cost the same, so that every shuffled choice fits the budget as well. Scores differ much from role to role, whatever the
rows: ``within_roles``, the mean of the correlations within each role, leaves that out.
Permutation test: Fisher 1935, The Design of Experiments, section 21; (1 + hits) / (1 + shuffles) is never 0 (Phipson and Smyth 2010).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from lorakit.backbone.site import Site
from lorakit.result import Result
from lorakit.searching.allocator import Preview

SHUFFLES = 999
CHANCE = 0.05
"""From this p on a shuffled ranking would do."""
FEWEST = 3
"""Sites from which a rank correlation says anything."""


@dataclass(frozen=True)
class SplitHalf(Result):
    """How far two halves of the training rows agree on the sites.

    Attributes:
        rows: that each half scored by.
        correlation: of the scores; None where there are fewer than three sites, or all scores are the same.
        within_roles: the mean of those within each role; None where no role has one.
        caught: the share of the other half's scores that the choice by one half's catches, the mean of both ways round.
        shuffled: the same of the choices with their ranks shuffled between sites of a role, the mean.
        p: how often one of these catches as much; None where there is nothing to choose.
    """

    rows: int
    correlation: float | None
    within_roles: float | None
    caught: float
    shuffled: float
    p: float | None

    @property
    def noise(self) -> bool:
        """Whether a shuffled ranking would do."""
        return self.p is not None and self.p > CHANCE


def split_half(first: Preview, second: Preview, sites: Sequence[Site], rows: int, seed: int = 0) -> SplitHalf:
    """How far both halves agree. Scores below 0 count as 0, for what is caught."""
    names, roles = [site.name for site in sites], places_by_role(sites)
    scores = [np.array([half.scores[name] for name in names], dtype=float) for half in (first, second)]
    shares = [np.array([half.shares[name] for name in names], dtype=float) for half in (first, second)]
    worth = [share_of_all(scores[1]), share_of_all(scores[0])]  # what each choice is judged by: the other half
    caught = float(np.mean([choice @ values for choice, values in zip(shares, worth, strict=True)]))
    generator = np.random.default_rng(seed)
    chance = np.array(
        [
            np.mean([within(choice, roles, generator) @ values for choice, values in zip(shares, worth, strict=True)])
            for _ in range(SHUFFLES)
        ]
    )
    given = all(np.ptp(choice[places]) == 0 for choice in shares for places in roles.values())
    return SplitHalf(
        rows=rows,
        correlation=correlation(*scores),
        within_roles=correlation_within(roles, *scores),
        caught=caught,
        shuffled=float(chance.mean()),
        p=None if given else float((1 + (chance >= caught - 1e-12).sum()) / (1 + SHUFFLES)),
    )


def places_by_role(sites: Sequence[Site]) -> dict[str, list[int]]:
    """Role -> where its sites stand."""
    roles: dict[str, list[int]] = {}
    for place, site in enumerate(sites):
        roles.setdefault(site.role, []).append(place)
    return roles


def correlation_within(roles: Mapping[str, list[int]], a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """The mean of the correlations within each role; None where no role has one."""
    found = [within for places in roles.values() if (within := correlation(a[places], b[places])) is not None]
    return float(np.mean(found)) if found else None


def share_of_all(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores as shares of their sum; the same for all where that is 0."""
    positive = np.maximum(np.nan_to_num(scores), 0.0)
    total = positive.sum()
    return positive / total if total > 0 else np.full(len(scores), 1 / len(scores))


def within(
    values: NDArray[np.float64], roles: Mapping[str, list[int]], generator: np.random.Generator
) -> NDArray[np.float64]:
    """The values, each role's in an order drawn at random."""
    mixed = values.copy()
    for places in roles.values():
        mixed[places] = generator.permutation(values[places])
    return mixed


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Spearman's; None for fewer than FEWEST sites, and where one side has but one score."""
    if len(a) < FEWEST or np.ptp(a) == 0 or np.ptp(b) == 0 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    return float(spearmanr(a, b).statistic)
