"""The measures of the evidence: log-loss after a temperature of the other half, and differences over rows and seeds crossed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import log_softmax

from lorakit.tasks.calibration import fit_temperature

Array = NDArray[np.floating[Any]]
SAMPLES = 2_000
NATS, POINTS = 0.01, 0.005
"""Differences of log-loss and of accuracy that count."""


def raw_losses(logits: Array, labels: NDArray[np.integer[Any]]) -> Array:
    """-log p of each row's label (rows,), in nats."""
    losses: Array = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return losses


def tempered_losses(logits: Array, labels: NDArray[np.integer[Any]]) -> Array:
    """The same after a temperature, for each half of the rows that of the other half: so nothing is fitted on what it is scored by."""
    second = np.random.default_rng(0).permutation(len(labels)) % 2 == 1
    losses = np.empty(len(labels))
    for scored, fitted in ((second, ~second), (~second, second)):
        temperature = fit_temperature(logits[fitted], labels[fitted])
        losses[scored] = raw_losses(logits[scored] / temperature, labels[scored])
    return losses


def right(logits: Array, labels: NDArray[np.integer[Any]]) -> Array:
    """1 for each row whose label is the likeliest, else 0 (rows,)."""
    return np.asarray(logits.argmax(axis=1) == labels, dtype=np.float64)


@dataclass(frozen=True)
class Gap:
    """A mean with its 95 % interval: how much better a side is than the reference, above 0 where it is better."""

    mean: float
    low: float
    high: float
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def student(gaps: Sequence[float] | Array, shape: str = "+.4f") -> str:
    """The mean of independent differences, with the 95 % interval of Student's t where there are several."""
    values = np.asarray(gaps, dtype=np.float64)
    if len(values) < 2:
        return format(values.mean(), shape)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean, low, high = (format(value, shape) for value in (values.mean(), values.mean() - half, values.mean() + half))
    return f"{mean} [{low}, {high}]"


def crossed(gaps: Array, samples: int = SAMPLES, seed: int = 0) -> Array:
    """Bootstrap means (samples,) of ``gaps`` (seeds, rows): seeds and rows are both drawn with replacement (Owen 2007, The pigeonhole
    bootstrap), since the same rows are scored by every seed.
    """
    generator = np.random.default_rng(seed)
    seeds, rows = gaps.shape
    means = np.empty(samples)
    for at in range(0, samples, 100):
        number = min(100, samples - at)
        by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=number) / seeds
        by_row = generator.multinomial(rows, np.full(rows, 1 / rows), size=number) / rows
        means[at : at + number] = ((by_seed @ gaps) * by_row).sum(axis=1)
    return means


def gap(values: Array) -> Gap:
    """The mean of differences (seeds, rows) and its interval."""
    low, high = np.quantile(crossed(values), [0.025, 0.975])
    return Gap(float(values.mean()), float(low), float(high), len(values))


def over_tasks(values: Sequence[Array]) -> Gap:
    """The mean over tasks of their mean differences, each (seeds, rows), with the interval of that: these tasks, not all tasks."""
    draws = np.mean([crossed(each, seed=place) for place, each in enumerate(values)], axis=0)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Gap(float(np.mean([each.mean() for each in values])), float(low), float(high), min(map(len, values)))


def counts(difference: Gap, least: float) -> str:
    """``better`` or ``worse`` where it is at least ``least`` and its interval leaves 0 out; ``no`` where it cannot be; else ``open``."""
    if difference.mean >= least and difference.low > 0:
        return "better"
    if difference.mean <= -least and difference.high < 0:
        return "worse"
    return "no" if -least < difference.low and difference.high < least else "open"
