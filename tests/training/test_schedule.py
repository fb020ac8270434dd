"""When things happen, worked out by hand and by the authors' rule."""

import math

import pytest

from lorakit.errors import RecipeError
from lorakit.recipe.schema import Recipe
from lorakit.training.schedule import make_schedule


def recipe(**values: float | str | None) -> Recipe:
    """Epochs 1, batch 8, search every 0.2 unless told otherwise; ``section__key=value``."""
    made = Recipe()
    defaults = {"training__epochs": 1.0, "training__batch_size": 8, "search__method": "heterolora"}
    for path, value in (defaults | values).items():
        section, key = path.split("__")
        setattr(getattr(made, section), key, value)
    return made


def test_mrpc_ticks_are_those_of_the_authors_logs():
    """3,668 rows in batches of 8 are 459 steps an epoch; the authors score every ceil(0.2 * 459) = 92 of them."""
    schedule = make_schedule(recipe(training__epochs=2.0), 3668)
    assert schedule.steps_per_epoch == 459
    assert schedule.ticks == [0, 92, 184, 276, 368, 459, 551, 643, 735, 827]


@pytest.mark.parametrize("steps", [5, 7, 10, 23, 460, 461])
def test_a_fifth_of_an_epoch_gives_five_ticks_each_epoch(steps: int):
    """Whatever the length, except that the authors' rounding up leaves fewer where an epoch is very short."""
    schedule = make_schedule(recipe(training__epochs=3.0), 8 * steps)
    period = math.ceil(0.2 * steps)
    assert schedule.ticks == [epoch * steps + tick for epoch in range(3) for tick in range(0, steps, period)]


def test_ticks_further_apart_than_an_epoch():
    assert make_schedule(recipe(training__epochs=4.0, search__every=1.5), 80).ticks == [0, 15, 30]


def test_a_tick_period_below_a_step_is_refused():
    with pytest.raises(RecipeError, match="an epoch has 4 steps") as caught:
        make_schedule(recipe(), 32)
    assert caught.value.problems[0].key == "search.every"
    assert "0.25" in caught.value.problems[0].valid
    assert make_schedule(recipe(search__every=0.25), 32).ticks == [0, 1, 2, 3]


def test_no_ticks_in_the_warm_up_and_in_the_tail():
    every = make_schedule(recipe(training__epochs=2.0, search__every=0.25), 160)
    assert (every.total_steps, every.ticks) == (40, [0, 5, 10, 15, 20, 25, 30, 35])
    some = make_schedule(recipe(training__epochs=2.0, search__every=0.25, search__warmup=0.2, search__tail=0.3), 160)
    assert some.ticks == [10, 15, 20, 25]
    with pytest.raises(RecipeError, match="no tick is left between the first 20% and the last 70% of 40 steps"):
        make_schedule(recipe(training__epochs=2.0, search__every=1.5, search__warmup=0.2, search__tail=0.7), 160)


def test_no_search_no_ticks():
    schedule = make_schedule(recipe(search__method="none"), 80)
    assert schedule.ticks == []
    assert schedule.next_tick(0) is None


def test_next_tick_is_the_first_not_yet_done():
    schedule = make_schedule(recipe(search__every=0.5), 80)
    assert [schedule.next_tick(step) for step in (0, 1, 5, 6)] == [0, 5, 5, None]


@pytest.mark.parametrize(
    ("rows", "batch", "accumulate", "epochs", "steps"),
    [(100, 8, 1, 1.0, 13), (100, 8, 4, 1.0, 4), (100, 8, 4, 2.5, 10), (100, 200, 1, 3.0, 3), (80, 8, 1, 1.1, 11)],
)
def test_steps(rows: int, batch: int, accumulate: int, epochs: float, steps: int):
    values = {"training__batch_size": batch, "training__accumulate": accumulate, "training__epochs": epochs}
    assert make_schedule(recipe(**values, search__method="none"), rows).total_steps == steps


def test_max_steps_cuts_but_never_adds():
    assert make_schedule(recipe(training__max_steps=7), 80).total_steps == 7
    assert make_schedule(recipe(training__max_steps=70), 80).total_steps == 10


def test_evaluations_and_checkpoints_end_with_the_last_step():
    values = {"evaluation__every": 0.3, "run__checkpoint_every": 1.0, "training__epochs": 2.5}
    schedule = make_schedule(recipe(**values), 80)
    assert schedule.evaluations == [3, 6, 9, 12, 15, 18, 21, 24, 25]
    assert schedule.checkpoints == [10, 20, 25]
    assert make_schedule(recipe(evaluation__every_steps=4), 80).evaluations == [4, 8, 10]
    assert make_schedule(recipe(evaluation__every=99.0), 80).evaluations == [10]


def test_a_share_too_small_for_a_step_is_one_step():
    assert make_schedule(recipe(evaluation__every=1e-12), 80).evaluations == list(range(1, 11))


def test_warm_up_is_a_share_of_all_steps():
    assert make_schedule(recipe(training__warmup=0.06), 8 * 50).warmup_steps == 3
    assert make_schedule(recipe(training__warmup=0.07), 8 * 100).warmup_steps == 7  # 0.07 * 100 = 7.000000000000001
    assert make_schedule(recipe(training__warmup=0.0), 80).warmup_steps == 0
