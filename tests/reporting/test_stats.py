import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from lorakit.reporting.stats import mean_interval, paired_difference, summarise

LEFT = [0.781, 0.789, 0.772, 0.801, 0.794]
RIGHT = [0.770, 0.791, 0.760, 0.781, 0.790]


def test_summary_agrees_with_the_standard_library():
    summary = summarise(LEFT)
    assert summary.n == 5
    assert summary.mean == pytest.approx(statistics.fmean(LEFT))
    assert summary.sd == pytest.approx(statistics.stdev(LEFT))
    assert summary.median == pytest.approx(statistics.median(LEFT))
    assert (summary.smallest, summary.largest) == (min(LEFT), max(LEFT))
    assert summary.to_dict()["n"] == 5


def test_one_value_has_no_spread_and_no_value_is_an_error():
    assert summarise([0.5]).sd == 0.0
    with pytest.raises(ValueError, match="no values"):
        summarise([])


def test_difference_has_the_mean_and_standard_error_of_a_paired_t_test():
    difference = paired_difference(LEFT, RIGHT)
    peer = stats.ttest_rel(LEFT, RIGHT)
    assert difference.mean / (difference.sd / math.sqrt(5)) == pytest.approx(peer.statistic)
    assert (difference.n, difference.wins, difference.ties) == (5, 4, 0)


def test_interval_is_the_percentile_of_all_resamplings():
    gaps = np.subtract(LEFT, RIGHT)
    every = [np.mean(drawn) for drawn in itertools.product(gaps, repeat=5)]  # the exact bootstrap distribution
    difference = paired_difference(LEFT, RIGHT, level=0.9, samples=40_000)
    assert difference.low == pytest.approx(np.quantile(every, 0.05), abs=5e-4)
    assert difference.high == pytest.approx(np.quantile(every, 0.95), abs=5e-4)


def test_interval_of_a_mean_is_that_of_its_difference_to_nothing():
    difference = paired_difference(LEFT, [0.0] * 5)
    assert mean_interval(LEFT) == (difference.low, difference.high)
    assert mean_interval([0.5]) == mean_interval([0.5, 0.5]) == (0.5, 0.5)


def test_the_same_seed_gives_the_same_interval():
    assert paired_difference(LEFT, RIGHT, seed=3) == paired_difference(LEFT, RIGHT, seed=3)


@pytest.mark.parametrize(("a", "b", "mean"), [([0.7], [0.6], 0.1), ([3.0, 4.0, 5.0], [1.0, 2.0, 3.0], 2.0)])
def test_pairs_that_do_not_vary_give_the_mean_as_interval(a, b, mean):
    difference = paired_difference(a, b)
    assert difference.low == difference.high == difference.mean == pytest.approx(mean)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0])])
def test_pairs_must_match(a, b):
    with pytest.raises(ValueError, match="as many values"):
        paired_difference(a, b)
