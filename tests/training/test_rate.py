"""The search for a rate, on curves that are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from lorakit.errors import RunError
from lorakit.training.rate import (
    BLIND,
    HIGHEST,
    HORIZON,
    LEAST,
    MOST,
    MOST_SHARE,
    SHORT,
    Aim,
    FoundRate,
    expected_rate,
    search_rate,
    steps_worth,
    told,
)
from lorakit.training.trial_steps import ROWS, STEPS


def collapsing(lr: float) -> float:
    """A steep law up to 0.02, beyond which the model has collapsed."""
    return 2000 * lr**1.5 if lr <= 0.02 else -0.3


CURVES: dict[str, tuple[Callable[[float], float], float]] = {
    "straight": (lambda lr: 100 * lr, 0.005),
    "steep": (lambda lr: 3e4 * lr**2, math.sqrt(0.5 / 3e4)),
    "shallow": (lambda lr: 10 * lr**0.6, (0.05) ** (1 / 0.6)),
    "collapsing": (collapsing, (0.5 / 2000) ** (1 / 1.5)),
    "diverging": (lambda lr: 100 * lr if lr < 0.01 else -math.inf, 0.005),
}


@pytest.mark.parametrize("usual", [5e-4, 1e-3, 4e-3])
@pytest.mark.parametrize("curve", CURVES)
def test_the_rate_is_where_the_change_is_the_wanted_one(curve: str, usual: float):
    change, wanted = CURVES[curve]
    found = search_rate(change, usual, SHORT, Aim(0.5, 1.5))
    assert found.lr == pytest.approx(wanted, rel=0.35)
    assert len(found.rates) == len(set(found.rates)) <= MOST


def test_a_power_law_is_followed_exactly():
    found = search_rate(lambda lr: 50 * lr**1.2, 2e-3, SHORT, Aim(0.5, 1.5))
    assert found.exponent == pytest.approx(1.2)
    assert found.lr == pytest.approx(0.01 ** (1 / 1.2), rel=5e-3)  # it has three digits
    assert found.falls == [50 * rate**1.2 for rate in found.rates]


def test_no_rate_is_tried_that_is_far_above_the_usual_one():
    tried: list[float] = []
    search_rate(lambda lr: tried.append(lr) or 1e-3 * lr, 1e-3, SHORT, Aim(0.5, 1.5))  # type: ignore[func-returns-value]
    assert tried == pytest.approx([1e-3, 4e-3, HIGHEST * 1e-3])


def test_above_a_collapse_nothing_is_expected():
    """The fall at 0.04 is less than at 0.01: the model has lost what it knew, and 0.02 is the most that is left."""
    assert expected_rate({0.01: 0.2, 0.04: 0.1}, 0.5) <= 0.02
    assert search_rate(collapsing, 0.005, SHORT, Aim(0.5, 1.5)).lr < 0.02


@pytest.mark.parametrize("fall", [lambda lr: 0.01, lambda lr: 1e-5 / lr, lambda lr: -1e-4, lambda lr: 0.0])
def test_what_hardly_falls_tells_nothing(fall: Callable[[float], float]):
    """Not even by falling less at a higher rate: then the model has not collapsed, it has not begun to learn."""
    found = search_rate(fall, 1e-3, SHORT, Aim(0.5, 1.5))
    assert (found.lr, found.rates) == (BLIND * 1e-3, pytest.approx([1e-3, 4e-3, HIGHEST * 1e-3]))
    assert told(found).endswith("and should by 50.0%, which is too little to tell")


@pytest.mark.parametrize("fall", [lambda lr: -1.0, lambda lr: -math.inf])
def test_a_loss_that_rises_at_every_rate_is_an_error(fall: Callable[[float], float]):
    with pytest.raises(RunError, match=r"16 steps at each of 0\.001, .* break the model") as caught:
        search_rate(fall, 1e-3, SHORT, Aim(0.5, 1.5))
    assert caught.value.problems[0].hint == "training.lr=NUMBER"


def test_where_the_usual_rate_is_too_high_lower_ones_are_tried():
    found = search_rate(lambda lr: 1e4 * lr if lr < 1e-4 else -1.0, 1e-3, SHORT, Aim(0.5, 1.5))
    assert found.lr == pytest.approx(5e-5, rel=0.35)


def test_words_say_what_was_tried():
    found = FoundRate(lr=0.004, target=0.25, share=1.0, exponent=1.5, rates=[0.002, 0.008], falls=[0.123, None])
    words = "16 steps bring the loss down by 12.3% at 0.002, beyond all bounds at 0.008, and should by 25.0%"
    assert told(found) == words


def test_where_none_comes_to_the_target_it_is_a_little_above_the_best():
    """0.02 breaks the model and 0.01 does not, and falls by a fifth of what is wanted."""
    found = search_rate(lambda lr: 10 * lr if lr <= 0.01 else -math.inf, 5e-3, SHORT, Aim(0.5, 1.5))
    assert (found.lr, found.rates) == (pytest.approx(1.5 * 0.01), pytest.approx([0.005, 0.02, 0.01]))


def test_where_the_fall_levels_off_below_the_target_no_more_is_hoped_for():
    """Nine tenths of what can be learnt are, at 0.004: the loss falls by 0.36 at most."""
    found = search_rate(lambda lr: 0.4 * lr / (lr + 4.4e-4), 1e-3, SHORT, Aim(0.5, 0.7))
    assert found.lr == pytest.approx(0.7 * max(found.rates), rel=5e-3)


def test_longer_trainings_get_lower_rates():
    """By a power of their length, within bounds."""
    same, twice, long, shortest, longest = (
        search_rate(lambda lr: 62.5 * lr, 1e-3, steps, Aim(0.25, 1.5)).lr
        for steps in (SHORT, SHORT / 2, 8 * SHORT, 1, 10**6)
    )
    assert same == 0.004
    assert twice == pytest.approx(0.004 * 2**HORIZON, rel=5e-3)
    assert long == pytest.approx(0.004 / 8**HORIZON, rel=5e-3)
    assert shortest == pytest.approx(0.004 * MOST_SHARE, rel=5e-3)
    assert longest == pytest.approx(0.004 * LEAST, rel=5e-3)
    for share, why in ((0.25, "long"), (2.0, "short")):
        found = FoundRate(lr=0.001, target=0.5, share=share, exponent=1.5, rates=[0.004], falls=[0.5])
        assert told(found).endswith(f"and should by 50.0%; of that rate {share:.2g}, as the training is {why}")


def test_its_cost_is_that_of_two_trials_and_three_looks_at_the_probe():
    """A row's loss is taken to cost three fifths of its training."""
    assert steps_worth(32) == pytest.approx(2 * STEPS + 3 * ROWS * 0.6 / 32)
