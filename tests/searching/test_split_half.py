"""Two halves of the rows, and shuffled rankings: against the counts of all permutations, on scores that are signal and on noise."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import spearmanr

from lorakit.backbone.site import Site
from lorakit.searching.allocator import Preview
from lorakit.searching.split_half import CHANCE, SplitHalf, split_half

LAYERS = 5
SITES = [Site(f"{layer}.{role}", layer, role, 8, 8, "linear") for role in ("q", "v") for layer in range(LAYERS)]
NAMES = [site.name for site in SITES]


def half(scores: np.ndarray, kept: int) -> Preview:
    """The best ``kept`` sites of each role are on."""
    on = np.concatenate([np.argsort(np.argsort(-part)) < kept for part in np.split(scores, 2)])
    return Preview(dict(zip(NAMES, scores, strict=True)), dict(zip(NAMES, on.astype(float), strict=True)))


def agreement(first: np.ndarray, second: np.ndarray, kept: int = 2) -> SplitHalf:
    return split_half(half(first, kept), half(second, kept), SITES, rows=16)


def test_correlations_are_scipys():
    draw = np.random.default_rng(0)
    first, second = draw.random(10), draw.random(10)
    found = agreement(first, second)
    assert found.correlation == pytest.approx(spearmanr(first, second).statistic)
    inside = [spearmanr(first[part], second[part]).statistic for part in (slice(5), slice(5, 10))]
    assert found.within_roles == pytest.approx(np.mean(inside))
    assert found.rows == 16


def test_what_a_choice_catches_and_what_chance_does():
    """One role; the other half's scores are known, and so is every permutation of the choice."""
    sites = SITES[:4]
    scores = {site.name: float(value) for site, value in zip(sites, (4, 3, 2, 1), strict=True)}
    shares = {site.name: float(value) for site, value in zip(sites, (1, 0.5, 0, 0), strict=True)}
    found = split_half(Preview(scores, shares), Preview(scores, shares), sites, rows=8)
    worth = np.array([4, 3, 2, 1]) / 10
    chances = [np.array(order) @ worth for order in permutations((1, 0.5, 0, 0))]
    assert found.caught == pytest.approx(0.4 + 0.15)
    assert found.shuffled == pytest.approx(np.mean(chances), abs=0.02)
    both = [(a + b) / 2 for a in chances for b in chances]  # each way round is shuffled by itself
    assert found.p == pytest.approx(np.mean(np.array(both) >= found.caught - 1e-12), abs=0.02)


def test_signal_is_told_from_noise():
    draw = np.random.default_rng(1)
    truth = np.exp(draw.normal(size=10))
    signal = agreement(truth * np.exp(0.1 * draw.normal(size=10)), truth * np.exp(0.1 * draw.normal(size=10)))
    assert not signal.noise
    found = []
    for seed in range(60):
        draw = np.random.default_rng(100 + seed)
        found.append(agreement(np.exp(draw.normal(size=10)), np.exp(draw.normal(size=10))).noise)
    assert np.mean(found) > 1 - 3 * CHANCE  # a test of level 5 % is wrong that often


def test_scores_that_differ_by_role_alone_are_noise():
    draw = np.random.default_rng(2)
    role = np.repeat([1.0, 100.0], LAYERS)
    found = agreement(role * (1 + 0.01 * draw.random(10)), role * (1 + 0.01 * draw.random(10)))
    assert found.correlation > 0.6
    assert found.within_roles < 0.6
    assert found.noise


@pytest.mark.parametrize("kept", [0, LAYERS])
def test_where_all_or_none_are_on_there_is_nothing_to_choose(kept: int):
    found = agreement(np.arange(10.0), np.arange(10.0), kept)
    assert found.p is None
    assert not found.noise


def test_scores_that_say_nothing_have_no_correlation():
    found = agreement(np.zeros(10), np.arange(10.0))
    assert (found.correlation, found.within_roles) == (None, None)
    assert 0 < found.caught < 1
