"""An axis of scores does not make two rows look like a climb."""

import math

import pytest

from lorakit.reporting.figures import curves
from lorakit.reporting.score_axis import LEAST_SPAN, score_limits


def test_two_of_thirty_rows_are_less_than_a_fifth_of_the_axis():
    low, high = score_limits([0.5, 0.5 + 2 / 30], 30)
    assert (2 / 30) / (high - low) < 0.2
    assert high - low >= 2 * 1.96 * math.sqrt(0.25 / 30)  # the normal interval of a half


@pytest.mark.parametrize("values", [[0.5], [0.87, 0.88], [0.995, 1.0], [0.0, 0.01], [-0.02, 0.03], [0.2, 0.9]])
@pytest.mark.parametrize("rows", [None, 4, 408, 10**6])
def test_the_axis_holds_all_scores_and_ends_where_scores_do(values, rows):
    low, high = score_limits(values, rows)
    assert low <= min(values) <= max(values) <= high + 1e-12
    assert high <= 1 + 1e-12
    assert low >= (-1 if min(values) < 0 else 0)
    assert high - low >= min(LEAST_SPAN, 1)


def test_errors_and_nothing_are_left_to_the_figure():
    assert score_limits([]) is None
    assert score_limits([0.5, 3.2]) is None


def test_the_curves_have_it_and_the_loss_begins_at_zero():
    metrics = [{"step": step, "epoch": 1, "loss": 0.69 - step / 1000, "lr": 1.0} for step in (1, 2)]
    metrics += [
        {"step": step, "epoch": 1, "split": "validation", "scores": {"accuracy": 0.5 + step / 30}} for step in (1, 2)
    ]
    upper, lower = curves(metrics, [], rows=30).axes
    assert upper.get_ylim()[0] == 0
    assert lower.get_ylim() == pytest.approx(score_limits([0.5 + 1 / 30, 0.5 + 2 / 30], 30))
