"""Several seeds as one result: their centre and spread, and the difference of two recipes seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import bootstrap


@dataclass(frozen=True)
class Summary:
    """n values: their mean, sample standard deviation (n - 1; 0 of a single value), median, smallest and largest."""

    n: int
    mean: float
    sd: float
    median: float
    smallest: float
    largest: float

    def to_dict(self) -> dict[str, float]:
        """The same, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """a - b over n pairs: mean, sample sd, a bootstrap interval of the mean, and how often a was above b."""

    n: int
    mean: float
    sd: float
    low: float
    high: float
    wins: int
    ties: int
    level: float

    def to_dict(self) -> dict[str, float]:
        """The same, ready for JSON."""
        return asdict(self)


def summarise(values: Sequence[float]) -> Summary:
    """Centre and spread of ``values``. Raises ValueError where there are none."""
    data = np.asarray(values, dtype=float)
    if data.size == 0:
        raise ValueError("no values to summarise")
    return Summary(
        n=int(data.size),
        mean=float(data.mean()),
        sd=deviation(data),
        median=float(np.median(data)),
        smallest=float(data.min()),
        largest=float(data.max()),
    )


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> Difference:
    """The difference a[i] - b[i] of runs that share seed i.

    The interval is the percentile bootstrap of the mean over ``samples`` resamplings of the pairs, drawn from ``seed``.
    With fewer than two pairs, or pairs that all differ alike, it is the mean itself. Few pairs give a narrow interval
    that promises too much: read ``n`` with it. Raises ValueError where the lengths differ or are 0.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"pairs need as many values on both sides, at least one: {len(a)} and {len(b)} given")
    gaps = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    low, high = mean_interval(gaps, level=level, samples=samples, seed=seed)
    wins, ties = int((gaps > 0).sum()), int((gaps == 0).sum())
    return Difference(int(gaps.size), float(gaps.mean()), deviation(gaps), low, high, wins, ties, level)


def mean_interval(
    values: Sequence[float] | np.ndarray, *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of ``values``; the mean itself, twice, where they do not vary."""
    data = np.asarray(values, dtype=float)
    if data.size < 2 or np.ptp(data) == 0:
        return float(data.mean()), float(data.mean())
    drawn = bootstrap(
        (data,),
        np.mean,
        confidence_level=level,
        n_resamples=samples,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def deviation(data: np.ndarray) -> float:
    """The sample standard deviation, 0 of a single value."""
    return float(data.std(ddof=1)) if data.size > 1 else 0.0
