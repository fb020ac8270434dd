"""Probabilities that one may use: a temperature fitted on held-out rows, and how far probabilities are from how often they are right.

    p = softmax(z / T)                T > 1: the model is too sure of itself; no label changes      Guo et al. 2017, section 4.2
    log-loss = mean of -log p_y       T is where it is least on the rows
    ECE = sum over bins of rows / n * |share right - mean p of the label given|                     Guo et al. 2017, equation 3
                                      15 bins of equal width over that p, the top label's

T was fitted on the rows that the numbers are of, so those after it are a little better there than on new rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorakit.tasks.task import Task

BINS = 15
FEWEST = 100
"""Rows below which a temperature would be a guess."""
BOUNDS = 0.01, 100.0
"""The temperatures that are tried."""


@dataclass(frozen=True)
class Reliability:
    """How good probabilities are.

    Attributes:
        log_loss: the mean of -log p of the right label, in nats.
        ece: the expected calibration error, 0 where of the rows that are answered with p a share p is right.
    """

    log_loss: float
    ece: float


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it does on the rows that it was fitted on.

    Attributes:
        temperature: what logits are divided by before the softmax; 1 where none was fitted.
        rows: how many it was fitted on: those of the validation split.
        before: of the probabilities as the model has them.
        after: of those with the temperature.
        note: why there is none; empty where there is.
    """

    temperature: float
    rows: int
    before: Reliability
    after: Reliability
    note: str = ""


def as_calibration(record: Mapping[str, Any]) -> Calibration:
    """What ``dataclasses.asdict`` made of one."""
    sides = {name: Reliability(**record[name]) for name in ("before", "after")}
    return Calibration(**{**record, **sides})


def calibration_of(task: Task, logits: NDArray[np.floating], labels: NDArray[np.integer[Any]]) -> Calibration | None:
    """The temperature for ``logits`` (n, C) of rows with class ids ``labels`` (n,); None where the answer is not one class of several, or
    a logit is no number.

    None is fitted, and that is noted, on fewer than ``FEWEST`` rows, and where there is no best one.
    """
    if task.regression or labels.ndim != 1 or not np.isfinite(logits).all():
        return None
    temperature, note = 1.0, ""
    if len(labels) < FEWEST:
        note = f"{len(labels)} rows are too few for a temperature: {FEWEST} or more are needed"
    elif (logits.argmax(axis=1) == labels).all():
        note = "all rows are right, so no temperature is the best one"
    else:
        temperature = fit_temperature(logits, labels)
        if temperature > BOUNDS[1] / 2:
            temperature, note = 1.0, "no temperature helps: how sure the model is says nothing"
    before = reliability(probabilities(logits), labels)
    after = before if temperature == 1.0 else reliability(probabilities(logits, temperature), labels)
    return Calibration(temperature, len(labels), before, after, note)


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer[Any]]) -> float:
    """The temperature with the least log-loss, within BOUNDS. It is convex in 1 / T, so there is one."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    scores = logits.astype(np.float64)
    right = scores[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(logsumexp(scores * scale, axis=1) - right * scale))

    bounds = tuple(np.log(BOUNDS))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def probabilities(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.floating]:
    """softmax(logits / temperature) (n, C); to the bit that of the logits where the temperature is 1."""
    from scipy.special import softmax

    found: NDArray[np.floating] = softmax(logits if temperature == 1.0 else logits / np.float32(temperature), axis=1)
    return found


def reliability(chances: NDArray[np.floating], labels: NDArray[np.integer[Any]]) -> Reliability:
    """Of probabilities (n, C) and class ids (n,), n at least 1."""
    right = chances[np.arange(len(labels)), labels].astype(np.float64)
    smallest = np.finfo(chances.dtype).tiny  # a probability that was rounded to 0
    return Reliability(float(-np.log(np.maximum(right, smallest)).mean()), calibration_error(chances, labels))


def calibration_error(chances: NDArray[np.floating], labels: NDArray[np.integer[Any]]) -> float:
    """The ECE of probabilities (n, C) and class ids (n,): bins are (0, 1/15], (1/15, 2/15] and so on. NaN where one of them is."""
    if not np.isfinite(chances).all():
        return float("nan")
    sure, right = chances.max(axis=1).astype(np.float64), chances.argmax(axis=1) == labels
    bins = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=right - sure, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))
