"""From scores to sites: order, ties, pools, the paper's counting, and properties of the greedy choice over random cases."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from lorakit.adapters.budget import Budget, enabled_modules
from lorakit.backbone.site import Site
from lorakit.errors import RunError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocate import Allocation, allocate, ranked


def make_sites(linear: int, shortcuts: int = 0) -> list[Site]:
    """Names l0, l1, ... and s0, s1, ...; nothing else of a site is looked at but its kind."""
    kinds = [("l", "q", "linear")] * linear + [("s", "res1", "shortcut")] * shortcuts
    names = [*range(linear), *range(shortcuts)]
    return [Site(f"{k}{n}", n, role, 8, 8, kind) for n, (k, role, kind) in zip(names, kinds, strict=True)]


def choose(
    scores: dict[str, float],
    sites: list[Site],
    costs: dict[str, int],
    budget: Budget | int,
    seed: int | torch.Generator = 0,
    **search: str,
) -> Allocation:
    if isinstance(budget, int):
        budget = Budget(budget, budget / sum(costs.values()), "")
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    return allocate(scores, sites, costs, budget, SearchSection(**search), generator)


ABCD = make_sites(4)


def scores_of(*values: float) -> dict[str, float]:
    return {f"l{number}": value for number, value in enumerate(values)}


def test_the_best_are_on_and_named_in_the_order_of_the_sites() -> None:
    found = choose(scores_of(1, 4, 2, 3), ABCD, dict.fromkeys(scores_of(0, 0, 0, 0), 10), 20)
    assert found == Allocation(on=["l1", "l3"], cut=3, margin=1)


def test_what_does_not_fit_is_passed_over_for_the_next_that_does() -> None:
    costs = {"l0": 50, "l1": 60, "l2": 60, "l3": 40}
    found = choose(scores_of(4, 3, 2, 1), ABCD, costs, 100)
    assert found == Allocation(on=["l0", "l3"], cut=1, margin=-2)


def test_with_everything_on_there_is_no_margin() -> None:
    found = choose(scores_of(4, 3, 2, 1), ABCD, dict.fromkeys(scores_of(0, 0, 0, 0), 10), 40)
    assert found == Allocation(on=["l0", "l1", "l2", "l3"], cut=1, margin=None)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused(broken: float) -> None:
    with pytest.raises(RunError, match=r"2 of 4 sites no finite score, the first being l1"):
        choose(scores_of(1, broken, broken, 3), ABCD, dict.fromkeys(scores_of(0, 0, 0, 0), 10), 20)


# -- ties --------------------------------------------------------------------------------------------------------------


def test_ties_come_from_the_generator_and_nothing_else() -> None:
    tied, sites = dict.fromkeys(scores_of(*range(12)), 1.0), make_sites(12)
    torch.manual_seed(1)
    first = [ranked(tied, sites, torch.Generator().manual_seed(seed)) for seed in range(5)]
    torch.manual_seed(2)
    again = [ranked(tied, sites, torch.Generator().manual_seed(seed)) for seed in range(5)]
    assert first == again
    assert len(set(map(tuple, first))) == 5
    state = torch.get_rng_state()
    ranked(tied, sites, torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_only_equal_scores_are_drawn_and_all_pairs_of_them_are_equally_likely() -> None:
    """l0 is always on; two of the five tied ones; never l6 and l7."""
    scores, sites, generator = scores_of(9, 1, 1, 1, 1, 1, 0, -1), make_sites(8), torch.Generator().manual_seed(3)
    drawn = Counter()
    for _ in range(3000):
        first, *pair = choose(scores, sites, dict.fromkeys(scores, 1), 3, generator).on
        assert first == "l0"
        drawn[tuple(pair)] += 1
    assert set(drawn) == set(combinations([f"l{n}" for n in range(1, 6)], 2))
    assert chisquare(list(drawn.values())).pvalue > 0.001


def test_all_orders_of_equal_scores_are_equally_likely() -> None:
    scores, sites, generator = scores_of(0, 0, 0, 0), make_sites(4), torch.Generator().manual_seed(4)
    orders = Counter(tuple(ranked(scores, sites, generator)) for _ in range(4800))
    assert len(orders) == 24
    assert chisquare(list(orders.values())).pvalue > 0.001


# -- the paper's counting ----------------------------------------------------------------------------------------------


def paper(**search: str) -> tuple[list[Site], dict[str, float], Allocation]:
    """OPT-350M's 48 + 95 sites at rank 8 with random scores."""
    sites, rng = make_sites(48, 95), np.random.default_rng(5)
    scores = {site.name: float(score) for site, score in zip(sites, rng.permutation(143), strict=True)}
    costs = dict.fromkeys(scores, 2048 * 8)
    found = choose(scores, sites, costs, Budget(36 * 2048 * 8, 0.25, ""), unit="modules", **search)
    return sites, scores, found


def test_unit_modules_turns_12_and_24_of_48_and_95_on_in_one_ranking() -> None:
    _, scores, found = paper(pool="combined")
    assert set(found.on) == {name for name, score in scores.items() if score >= 143 - 36}
    assert found.margin == 1


def test_unit_modules_with_separated_pools() -> None:
    _, scores, found = paper(pool="separated")
    best = sorted(scores, key=scores.__getitem__, reverse=True)
    lora, short = [n for n in best if n[0] == "l"][:12], [n for n in best if n[0] == "s"][:24]
    assert set(found.on) == {*lora, *short}


@pytest.mark.parametrize(
    ("share", "linear", "shortcuts", "expected"),
    [(0.25, 48, 95, (12, 24)), (0.33, 48, 95, (15, 31)), (0.25, 47, 93, (11, 23)), (0.29, 100, 0, (29, 0))],
)
def test_linear_sites_are_floored_and_shortcuts_rounded(
    share: float, linear: int, shortcuts: int, expected: tuple[int, int]
) -> None:
    assert enabled_modules(share, make_sites(linear, shortcuts)) == expected


# -- shares of the budget ----------------------------------------------------------------------------------------------


def test_separated_pools_have_their_shares_whatever_the_scores() -> None:
    sites = make_sites(4, 4)
    scores = {site.name: float(100 * site.is_shortcut + site.layer) for site in sites}
    costs = {site.name: 5 if site.is_shortcut else 10 for site in sites}  # 40 and 20
    assert choose(scores, sites, costs, 30, pool="combined").on == ["l3", "s0", "s1", "s2", "s3"]
    assert choose(scores, sites, costs, 30, pool="separated").on == ["l2", "l3", "s2", "s3"]


def test_a_budget_that_no_share_of_holds_a_site_is_refused() -> None:
    sites = make_sites(2, 2)
    scores = {site.name: 1.0 for site in sites}
    costs = dict.fromkeys(scores, 10)
    assert len(choose(scores, sites, costs, 10, pool="combined").on) == 1
    with pytest.raises(RunError, match="holds no site of either"):
        choose(scores, sites, costs, 10, pool="separated")


@pytest.mark.parametrize("pool", ["combined", "separated"])
def test_shares_are_exact_where_binary_fractions_are_not(pool: str) -> None:
    """0.35 of 20 + 40 sites is 7 + 14, while 0.35 * 60 * 768 is 16127.999... in binary, and 0.35 * 20 * 768 is not less."""
    sites = make_sites(20, 40)
    scores = {site.name: float(number) for number, site in enumerate(sites)}
    search = SearchSection(method="heterolora", enable=0.35, pool=pool)
    limit = Budget(21 * 768, 0.35, "")
    found = allocate(scores, sites, dict.fromkeys(scores, 768), limit, search, torch.Generator())
    assert len(found.on) == 21
    if pool == "separated":
        assert Counter(name[0] for name in found.on) == {"l": 7, "s": 14}


# -- properties over random cases --------------------------------------------------------------------------------------


@dataclass
class Drawn:
    sites: list[Site]
    scores: dict[str, float]
    costs: dict[str, int]
    budget: Budget


def cases(*, tied: bool) -> Iterator[Drawn]:
    for seed in range(150):
        rng = np.random.default_rng(seed)
        sites = make_sites(int(rng.integers(1, 14)), int(rng.integers(1, 14)))
        rng.shuffle(sites)
        drawn = rng.integers(0, 4, len(sites)) if tied else rng.permutation(len(sites))
        scores = {site.name: float(score) for site, score in zip(sites, drawn, strict=True)}
        costs = {site.name: int(rng.integers(1, 60)) for site in sites}
        everything = sum(costs.values())
        parameters = int(rng.integers(max(costs.values()) * 2, everything * 2))
        yield Drawn(sites, scores, costs, Budget(min(parameters, everything), min(1.0, parameters / everything), ""))


def test_distinct_scores_are_taken_greedily() -> None:
    for case in cases(tied=False):
        left, expected = case.budget.parameters, set()
        for score in sorted(case.scores.values(), reverse=True):
            (name,) = [n for n, s in case.scores.items() if s == score]
            if case.costs[name] <= left:
                expected.add(name)
                left -= case.costs[name]
        found = choose(case.scores, case.sites, case.costs, case.budget)
        assert set(found.on) == expected
        assert found.on == [site.name for site in case.sites if site.name in expected]
        assert found.cut == min(case.scores[name] for name in expected)


def test_with_ties_each_site_off_would_not_have_fitted_beside_those_before_it() -> None:
    for case in cases(tied=True):
        on = set(choose(case.scores, case.sites, case.costs, case.budget, seed=1).on)
        assert sum(case.costs[name] for name in on) <= case.budget.parameters
        for name in case.scores.keys() - on:
            before = sum(case.costs[other] for other in on if case.scores[other] >= case.scores[name])
            assert case.costs[name] > case.budget.parameters - before


def test_separated_pools_keep_the_whole_budget_and_each_its_own() -> None:
    chosen = 0
    for case in cases(tied=True):
        try:
            on = choose(case.scores, case.sites, case.costs, case.budget, pool="separated").on
        except RunError:
            continue
        chosen += 1
        assert sum(case.costs[name] for name in on) <= case.budget.parameters
        everything = sum(case.costs.values())
        for kind in "ls":
            spent, whole = (sum(case.costs[n] for n in names if n[0] == kind) for names in (on, case.costs))
            assert spent * everything <= case.budget.parameters * whole
    assert chosen > 100


def test_the_order_in_which_sites_are_listed_does_not_matter_without_ties() -> None:
    for case in cases(tied=False):
        found = choose(case.scores, case.sites, case.costs, case.budget)
        backwards = choose(case.scores, case.sites[::-1], case.costs, case.budget, seed=9)
        assert backwards.on == found.on[::-1]
