"""The search for a rate, on curves that are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from lorakit.errors import RunError
from lorakit.training.rate import (
    FIRST,
    HIGHEST,
    HORIZON,
    LEAST,
    MOST,
    SHORT,
    FoundRate,
    expected_rate,
    search_rate,
    steps_worth,
    told,
)
from lorakit.training.trial_steps import ROWS, STEPS


def collapsing(lr: float) -> float:
    """A steep law up to 0.02, beyond which the model has collapsed."""
    return 2000 * lr**1.5 if lr <= 0.02 else 0.01


CURVES: dict[str, tuple[Callable[[float], float], float]] = {
    "straight": (lambda lr: 100 * lr, 0.005),
    "steep": (lambda lr: 3e4 * lr**2, math.sqrt(0.5 / 3e4)),
    "shallow": (lambda lr: 10 * lr**0.6, (0.05) ** (1 / 0.6)),
    "collapsing": (collapsing, (0.5 / 2000) ** (1 / 1.5)),
    "diverging": (lambda lr: 100 * lr if lr < 0.01 else math.inf, 0.005),
}


@pytest.mark.parametrize("usual", [5e-4, 1e-3, 4e-3])
@pytest.mark.parametrize("curve", CURVES)
def test_the_rate_is_where_the_change_is_the_wanted_one(curve: str, usual: float):
    change, wanted = CURVES[curve]
    found = search_rate(change, usual, SHORT, 0.5)
    assert found.lr == pytest.approx(wanted, rel=0.35)
    assert len(found.rates) == len(set(found.rates)) <= MOST


def test_a_power_law_is_followed_exactly():
    found = search_rate(lambda lr: 50 * lr**1.2, 2e-3, SHORT, 0.5)
    assert found.exponent == pytest.approx(1.2)
    assert found.lr == pytest.approx(0.01 ** (1 / 1.2), rel=5e-3)  # it has three digits
    assert found.changes == [50 * rate**1.2 for rate in found.rates]


def test_no_rate_is_tried_that_is_far_above_the_usual_one():
    tried: list[float] = []
    search_rate(lambda lr: tried.append(lr) or 1e-3 * lr, 1e-3, SHORT, 0.5)  # type: ignore[func-returns-value]
    assert tried == pytest.approx([FIRST * 1e-3, HIGHEST * 1e-3])


def test_above_a_collapse_nothing_is_expected():
    """The change at 0.04 is less than at 0.01: the model has lost what it knew, and 0.02 is the most that is left."""
    assert expected_rate({0.01: 0.2, 0.04: 0.1}, 0.5) <= 0.02
    assert search_rate(collapsing, 0.005, SHORT, 0.5).lr < 0.02


def test_a_model_that_does_not_move_or_breaks_everywhere_is_an_error():
    with pytest.raises(RunError, match=r"8 steps at none of 0\.004, .* moves the model's answers") as caught:
        search_rate(lambda lr: 0.0, 1e-3, SHORT, 0.5)
    assert caught.value.problems[0].hint == "training.lr=NUMBER"
    with pytest.raises(RunError, match="leaves them finite"):
        search_rate(lambda lr: math.inf, 1e-3, SHORT, 0.5)


def test_words_say_what_was_tried():
    found = FoundRate(lr=0.004, target=0.5, share=1.0, exponent=1.5, rates=[0.002, 0.008], changes=[0.2, None])
    assert told(found) == "8 steps move the logits by 0.2 at 0.002, beyond all bounds at 0.008, and should by 0.5"


def test_longer_trainings_get_lower_rates():
    """By a power of their length; trainings that are shorter than short ones get what those get."""
    short, shorter, long = (search_rate(lambda lr: 125 * lr, 1e-3, steps).lr for steps in (SHORT, 5, 8 * SHORT))
    assert short == shorter == 0.004
    assert long == pytest.approx(0.004 / 8**HORIZON, rel=5e-3)
    assert search_rate(lambda lr: 125 * lr, 1e-3, 10**6).lr == pytest.approx(0.004 * LEAST, rel=5e-3)
    found = FoundRate(lr=0.001, target=0.5, share=0.25, exponent=1.5, rates=[0.004], changes=[0.5])
    assert told(found).endswith("and should by 0.5; of that rate 0.25, as the training is long")


def test_its_cost_is_that_of_two_trials_and_three_looks_at_the_probe():
    """A row's logits are taken to cost two fifths of its training."""
    assert steps_worth(32) == pytest.approx(2 * STEPS + 3 * ROWS * 0.4 / 32)
