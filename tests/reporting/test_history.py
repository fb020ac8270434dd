import numpy as np
import pytest
from scipy.stats import spearmanr
from support.small_history import CORRELATIONS, SITES, TIMELINE, ranked_history, small_history

from lorakit.reporting.budget_shares import by_kind, by_layer, by_role, by_third, layer_thirds, value_against_query
from lorakit.reporting.history import SiteRecord, named_sites, read_history, site_from_name, without_search
from lorakit.reporting.stability import Stability, measure_stability, spearman


def test_shares_are_those_worked_out_by_hand():
    history = small_history()
    q, v, res1 = by_role(history)
    assert [share.name for share in (q, v, res1)] == ["q", "v", "res1"]
    assert [share.budget for share in (q, v, res1)] == pytest.approx([100 / 1600, 700 / 1600, 800 / 1600])
    assert [share.even for share in (q, v, res1)] == pytest.approx([0.25, 0.25, 0.5])
    assert [share.on for share in (q, v, res1)] == pytest.approx([1 / 9, 7 / 9, 4 / 9])
    assert [share.lift for share in (q, v, res1)] == pytest.approx([0.25, 1.75, 1.0])
    assert [share.budget for share in by_layer(history)] == pytest.approx([100 / 1600, 500 / 1600, 1000 / 1600])
    assert [(share.name, share.budget) for share in by_kind(history)] == [("projections", 0.5), ("shortcuts", 0.5)]
    assert [share.name for share in by_third(history)] == ["first", "middle", "last"]
    assert history.sites_on == [4, 4, 4]


def test_v_and_q_are_compared_layer_by_layer():
    found = value_against_query(small_history())
    assert (found.v, found.q) == pytest.approx((7 / 9, 1 / 9))
    assert (found.layers, found.layers_v, found.layers_q) == (3, 3, 0)
    assert value_against_query(read_history(TIMELINE[:0], SITES)) is None
    without_q = [site for site in SITES if site.role != "q"]
    assert value_against_query(read_history([{**TIMELINE[0], "scores": {}}], without_q)) is None


def test_live_ranks_count_as_far_as_they_are_live():
    history = ranked_history()
    assert history.ranked
    assert not history.scored
    q, v = by_role(history)
    assert (q.rank, v.rank) == (2.5, 3.0)
    assert (q.even, v.even) == (0.5, 0.5)
    compared = value_against_query(history)
    assert (compared.v, compared.q, compared.ranked, compared.alike) == (3.0, 2.5, True, False)
    assert (q.on, v.on) == (1.0, 1.0)
    assert (q.budget, v.budget) == pytest.approx((5 / 11, 6 / 11))
    assert measure_stability(history).moved == pytest.approx([3 / 6])  # three units left q
    assert measure_stability(history).correlation == [None]


def test_on_and_off_alone_is_no_ranking():
    assert not small_history().ranked
    full = {site.name: 4 for site in SITES}
    assert not read_history([{**TIMELINE[0], "ranks": full}], SITES).ranked


def test_where_costs_are_unknown_sites_are_counted():
    unknown = [site_from_name(site.name, 4) for site in SITES]
    history = read_history(TIMELINE, unknown)
    assert not history.priced
    assert history.price.tolist() == [1.0] * 9
    assert history.spent.sum() == 12


def test_ranks_that_the_search_gave_for_good_are_ranks_too():
    given = [SiteRecord("0.q", 0, "q", 1, 50), SiteRecord("0.v", 0, "v", 3, 150)]
    once = {**TIMELINE[0], "scores": {}, "on": ["0.q", "0.v"], "ranks": {"0.q": 1, "0.v": 3}}
    history = read_history([once, once], given)
    assert history.ranked
    assert [(share.budget, share.even) for share in by_role(history)] == [(0.25, 0.5), (0.75, 0.5)]
    assert measure_stability(history).verdict == "fixed"
    mixed = [SiteRecord("0.q", 0, "q", 4, 50), SiteRecord("0.res1", 0, "res1", 8, 150)]
    assert not read_history([{**once, "on": ["0.q"], "ranks": None}], mixed).ranked


def test_a_name_gives_layer_and_role_away():
    named = {
        "bert.encoder.layer.3.attention.self.query": (3, "q"),
        "bert.encoder.layer.11.res1": (11, "res1"),
        "model.layers.0.mlp.gate_proj": (0, "gate"),
        "model.layers.2.in": (2, "in"),
        "pooler.dense": (-1, "other"),
    }
    assert {name: (site_from_name(name, 8).layer, site_from_name(name, 8).role) for name in named} == named
    assert [site.name for site in named_sites(TIMELINE[:1], 8)] == list(TIMELINE[0]["scores"])


def test_without_a_search_there_is_one_column_of_what_trained():
    history = without_search(SITES, ["layer.0.q", "layer.1.res1"])
    assert history.ticks == ()
    shares = {share.name: share.budget for share in by_role(history)}
    assert shares == pytest.approx({"q": 1 / 3, "v": 0.0, "res1": 2 / 3})
    assert measure_stability(history) == Stability([], [], [], 0.0, 0, 0)


def test_changes_and_correlations_by_hand():
    stability = measure_stability(small_history())
    assert stability.churn == stability.moved == [0.25, 0.25]
    assert stability.correlation == pytest.approx(CORRELATIONS)
    assert (stability.kept, stability.always, stability.never) == (0.75, 3, 3)
    assert stability.verdict == "unknown"


def test_correlation_is_scipys_over_what_both_have():
    a = np.array([3.0, 1.0, 2.0, 2.0, np.nan, 9.0])
    b = np.array([1.0, 1.0, 5.0, 4.0, 2.0, np.nan])
    assert spearman(a, b) == pytest.approx(spearmanr(a[:4], b[:4]).statistic)
    assert spearman(a, np.zeros(6)) is None
    assert spearman(a[:2], b[:2]) is None


@pytest.mark.parametrize(
    ("moved", "verdict"),
    [
        ([0.5, 0.2, 0.1, 0.0], "settles"),
        ([0.5, 0.5, 0.3, 0.2], "calms"),
        ([0.3, 0.3, 0.3, 0.2], "goes on"),
        ([0.5, 0.1, 0.0], "unknown"),
        ([0.0, 0.0], "fixed"),
    ],
)
def test_verdict(moved, verdict):
    assert Stability(moved, moved, [], 0.0, 0, 0).verdict == verdict


def test_thirds_are_as_even_as_whole_layers_allow():
    assert layer_thirds([0, 1]) == {}
    assert layer_thirds([-1, *range(4)]) == {"first": [0, 1], "middle": [2], "last": [3]}
    assert [len(part) for part in layer_thirds(range(24)).values()] == [8, 8, 8]
