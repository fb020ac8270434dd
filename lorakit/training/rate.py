"""``training.lr: auto``: the learning rate at which a few steps learn of the texts what suits every method.

    D(lr)    how much better ``STEPS`` steps from the start tell rows apart by their labels, as a share of the loss (``trial_steps``)
    p        the slope of log D over log lr between two rates that were tried
    rate     lr (C / D)^(1 / p) s, from the nearest rate that was tried; a share of the best of them, times s, where none comes to C
    s        (``SHORT`` / steps of the training)^h within bounds: a longer training wants a lower rate

Good learning rates differ by two orders of magnitude from method to method, because they are rates of parameters; how fast texts are told
apart should differ little. The first rate that is tried is the method's usual one; each further one is where the law through those
before it expects C, until one is near, or C lies between two of them, or ``HIGHEST`` times the usual one was tried. A rate by which rows
are told apart worse than by a lower one is too high. Where no rate does anything to speak of, too little is learnt in these steps to tell,
and the rate is ``BLIND`` times the usual one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorakit.adapters.method import methods
from lorakit.errors import RunError
from lorakit.recipe.schema import Recipe
from lorakit.result import Result
from lorakit.training.search_hook import SearchHook
from lorakit.training.trial_steps import ROWS, STEPS, Trials

if TYPE_CHECKING:
    from lorakit.training.training import Training

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Aim:
    """fall: C, by what share the least loss should fall in the first ``STEPS`` steps of a training of ``SHORT`` steps; over: the rate over
    the best of those that were tried, where none comes to that.
    """

    fall: float
    over: float


DRAWN, READING = Aim(0.026, 1.5), Aim(0.5, 0.7)
"""From a head that was drawn, and from one that reads the features already: little is learnt while no output means anything.

By grids of rates in factors of 2 and test log-loss, one seed (scripts/README.md), from heads that were drawn: TREC and SST-2, 500 rows, 94
steps of 16 rows, LoRA of rank 1, 8 and 64, DoRA, PiSSA, VeRA, BitFit and AdaLoRA on all projections of the bundled encoder, and LoRA on
MPQA, 1,000 rows. The rate at C was to lose 0.03 nats to the best of the grid on the mean of these 19 cells, 0.19 at most. The fall
of the loss as it is, without offsets, was to lose three times that, eight steps in place of 16 nearly twice; how far logits move told less.
From fitted heads: six of these methods on TREC and SST-2, and how far the loss falls at most on CR, which has more that cannot be learnt.
"""
SHORT, HORIZON, LEAST, MOST_SHARE = 94, 2 / 3, 1 / 16, 2.0
"""Steps of such a training, h, the least and the most that s may be.

LoRA's best rates: 8e-3 and 39 steps, 2e-3 to 4e-3 and 94 steps (SUBJ), 2e-3 and 130 (CR), 5e-4 and 345 (MRPC), 1e-3 and 626 (SST-2). h is
where all of these are met to within about a factor of two; the usual rates are those of much longer trainings.
"""
HIGHEST = 16.0
"""The highest rate that is tried, over the method's usual one."""
SLOPE, SLOPES = 1.5, (0.5, 4.0)
"""p where nothing tells it, and what it may be: beyond that it was noise."""
NEAR = 1.5
"""A rate is near enough where its D is C to within this factor."""
FARTHEST = 4.0
"""The largest factor from a rate that was tried to one that is expected: D is no power law over more than that."""
FAINT, NOISE, BLIND = 0.04, 0.05, 8.0
"""Falls below this share of C say nothing; above this share of the loss it has not risen by chance; the rate over the method's usual one
where nothing is said.
"""
FORWARD = 0.6
"""What a row's loss takes, with all that is put back, of what it takes in a training step."""
MOST = 4
"""Rates that are tried at most."""


@dataclass(frozen=True)
class FoundRate(Result):
    """A learning rate that was found.

    Attributes:
        lr: the rate.
        target: C, by what share ``steps`` steps of a short training should bring the loss down.
        share: s, the rate over that of a short training.
        exponent: p, by which the fall grows with the rate.
        rates: those that were tried, in order.
        falls: D at each of them; None where the model diverged.
        steps: optimiser steps of each trial.
    """

    lr: float
    target: float
    share: float
    exponent: float
    rates: list[float]
    falls: list[float | None]
    steps: int = STEPS


def find_rate(training: Training) -> None:
    """Find the learning rate of a training that is about to take its first step, and set it.

    RunError where every rate breaks the model.
    """
    began = time.perf_counter()
    aim = READING if training.head_reads else DRAWN
    found = search_rate(Trials(training).fall, usual_rate(training.recipe), training.schedule.total_steps, aim)
    training.use_rate(found, time.perf_counter() - began)
    for hook in training.hooks:
        if isinstance(hook, SearchHook) and (much := hook.to_close()):
            what = "the rate is found with %s adapter parameters on, as the search has closed none yet: the %s that stay may want more"
            logger.warning(what, *(f"{number:,}" for number in much))
    logger.info("rate: %s, found in %.1f s: %s", f"{found.lr:.3g}", training.state.rate_seconds, told(found))


def usual_rate(recipe: Recipe) -> float:
    """What is usual for the recipe's method."""
    return methods.get(recipe.adapter.method).lr


def steps_worth(rows_a_step: int) -> float:
    """About what finding a rate takes, in optimiser steps of ``rows_a_step`` rows: two trials, and the probe's rows three times."""
    return 2 * STEPS + 3 * FORWARD * ROWS / rows_a_step


def search_rate(fall: Callable[[float], float], usual: float, total_steps: int, aim: Aim) -> FoundRate:
    """The rate for a training of ``total_steps`` steps, as the file's head says; ``usual`` is the method's.

    RunError where every rate breaks the model.

    Example:
        >>> search_rate(lambda lr: 125 * lr, usual=1e-3, total_steps=94, aim=Aim(0.25, 1.0)).lr
        0.002
    """
    target = aim.fall
    tried: dict[float, float] = {}
    lr = usual
    while lr not in tried and len(tried) < MOST:
        tried[lr] = fall(lr)
        if is_enough(tried, target):
            break
        lr = min(expected_rate(tried, target), HIGHEST * usual)
    standing = [rate for rate in tried if not breaks(tried[rate])]
    if not standing:
        rates = ", ".join(f"{rate:.2g}" for rate in tried)
        raise RunError(
            f"no learning rate was found: {STEPS} steps at each of {rates} break the model", hint="training.lr=NUMBER"
        )
    falls = [found if math.isfinite(found) else None for found in tried.values()]
    share = max(min((SHORT / total_steps) ** HORIZON, MOST_SHARE), LEAST)
    if tells(tried, target):
        lr = min(settled_rate(tried, aim), HIGHEST * usual)
    else:
        lr = BLIND * usual if len(standing) == len(tried) else max(standing)
    lr *= share
    return FoundRate(float(f"{lr:.3g}"), target, share, slope(tried, target), [*tried], falls)


def breaks(fall: float) -> bool:
    """Whether rows are told apart clearly worse than before, or no longer."""
    return fall < -NOISE


def tells(tried: Mapping[float, float], target: float) -> bool:
    """Whether a rate brings it down by more than steps do that learn nothing yet."""
    return any(fall >= FAINT * target for fall in tried.values())


def sound(tried: Mapping[float, float], target: float) -> list[float]:
    """The rates that brought it down, ascending: above one that brings it down less than a lower one did, none is."""
    rates: list[float] = []
    for rate in sorted(tried):
        if breaks(tried[rate]) or (rates and tried[rate] < tried[rates[-1]] >= FAINT * target):
            break
        rates += [rate] * (tried[rate] > 0)
    return rates


def is_enough(tried: Mapping[float, float], target: float) -> bool:
    """Whether a rate is near, or the wanted one lies between two."""
    falls = [tried[rate] for rate in sound(tried, target)]
    near = any(target / NEAR <= fall <= target * NEAR for fall in falls)
    return near or (bool(falls) and falls[0] <= target <= falls[-1])


def settled_rate(tried: Mapping[float, float], aim: Aim) -> float:
    """Where the fall should be that of ``aim``, by all that was tried; ``over`` times the best of them where none came to it, and higher
    ones were worse or hardly better.
    """
    rates = sound(tried, aim.fall)
    if not rates or tried[rates[-1]] >= aim.fall:
        return expected_rate(tried, aim.fall)
    levels_off = len(rates) > 1 and steepness(tried, *rates[-2:]) < SLOPES[0]
    return aim.over * rates[-1] if levels_off or max(tried) > rates[-1] else expected_rate(tried, aim.fall)


def expected_rate(tried: Mapping[float, float], target: float) -> float:
    """Where the fall should be ``target``; where nothing was learnt, well above those tried, or below them where they break the model."""
    if not tells(tried, target):
        standing = [rate for rate in tried if not breaks(tried[rate])]
        if not standing:
            return min(tried) / FARTHEST**2
        return max(standing) * (FARTHEST if len(standing) == len(tried) else 1)
    rates = sound(tried, target)
    broken = min((rate for rate in tried if rates and rate > rates[-1]), default=math.inf)
    nearest = min(rates, key=lambda rate: abs(math.log(tried[rate] / target)))
    factor = (target / tried[nearest]) ** (1 / slope(tried, target))
    return min(nearest * min(max(factor, 1 / FARTHEST), FARTHEST), max(broken / 2, nearest))


def slope(tried: Mapping[float, float], target: float) -> float:
    """p, between the two sound rates around ``target``, or those nearest to it."""
    rates = sound(tried, target)
    if len(rates) < 2:
        return SLOPE
    above = next((place for place, rate in enumerate(rates) if tried[rate] >= target), len(rates) - 1)
    measured = steepness(tried, rates[max(above, 1) - 1], rates[max(above, 1)])  # below 0 where both are faint
    return min(max(measured, SLOPES[0]), SLOPES[1])


def steepness(tried: Mapping[float, float], low: float, high: float) -> float:
    """The slope of log D over log lr between two rates at which the loss fell."""
    return math.log(tried[high] / tried[low]) / math.log(high / low)


def told(found: FoundRate) -> str:
    """How it was found, in words."""
    tries = ", ".join(
        f"{'beyond all bounds' if fall is None else f'by {fall:.1%}'} at {lr:.2g}"
        for lr, fall in zip(found.rates, found.falls, strict=True)
    )
    words = f"{found.steps} steps bring the loss down {tries}, and should by {found.target:.1%}"
    if all(fall is None or fall < FAINT * found.target for fall in found.falls):
        words += ", which is too little to tell"
    if found.share == 1:
        return words
    return f"{words}; of that rate {found.share:.2g}, as the training is {'long' if found.share < 1 else 'short'}"
