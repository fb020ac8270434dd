"""Does the search settle on a choice? What changes from one tick to the next, and how alike two ticks rank the sites."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from lorakit.reporting.history import History, Numbers

CALM, ALIKE = 0.05, 0.5
"""A choice is called settled where the last changes are below CALM, calmer where they are below ALIKE of the first."""


@dataclass(frozen=True)
class Stability:
    """Over the changes from tick to tick; there is one less than there are ticks.

    churn: the share of the sites on before that went off; moved: the share of the live rank that left its site, which also
    sees ranks shrink; correlation: Spearman's of a site's scores at both ticks, None where that is not defined; kept: the share
    of the first tick's sites that are on at the last; always and never: sites that were on at every tick, at none.
    """

    churn: list[float]
    moved: list[float]
    correlation: list[float | None]
    kept: float
    always: int
    never: int

    def first_and_last(self, values: list[float]) -> tuple[float, float]:
        """The means over the first and over the last third of the changes, at least one each."""
        third = max(len(values) // 3, 1)
        return float(np.mean(values[:third])), float(np.mean(values[-third:]))

    @property
    def correlations(self) -> list[float]:
        """Those that are defined."""
        return [value for value in self.correlation if value is not None]

    @property
    def verdict(self) -> str:
        """``settles``, ``calms``, ``goes on``, or ``fixed`` where nothing ever changed; ``unknown`` with fewer than four changes."""
        if not any(self.moved):
            return "fixed"
        if len(self.moved) < 4:
            return "unknown"
        begun, ended = self.first_and_last(self.moved)
        if ended <= CALM:
            return "settles"
        return "calms" if ended <= ALIKE * begun else "goes on"


def measure_stability(history: History) -> Stability:
    """What the ticks of ``history`` changed."""
    pairs = range(1, len(history.ticks))
    first, last = (history.on[:, 0], history.on[:, -1]) if history.ticks else (np.zeros(0), np.zeros(0))
    return Stability(
        churn=[history.ticks[tick].churn for tick in pairs],
        moved=[moved(history.live[:, tick - 1], history.live[:, tick]) for tick in pairs],
        correlation=[spearman(history.scores[:, tick - 1], history.scores[:, tick]) for tick in pairs],
        kept=float((first * last).sum() / first.sum()) if first.any() else 0.0,
        always=int(history.on.all(axis=1).sum()) if history.ticks else 0,
        never=int((~history.on.any(axis=1)).sum()) if history.ticks else 0,
    )


def moved(before: Numbers, after: Numbers) -> float:
    """sum max(before - after, 0) / sum before: the share of the live rank units that are no longer where they were."""
    total = before.sum()
    return float(np.maximum(before - after, 0).sum() / total) if total else 0.0


def spearman(a: Numbers, b: Numbers) -> float | None:
    """The rank correlation over the sites that have a score in both, ties at their mean rank.

    None for fewer than three sites, and where all scores of one side are equal.
    """
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3:
        return None
    x, y = a[both], b[both]
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(spearmanr(x, y).statistic)
