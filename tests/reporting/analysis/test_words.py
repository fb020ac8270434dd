"""The words of an analysis made by hand, and when they say what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorakit.reporting.analysis.drawings import drawings
from lorakit.reporting.analysis.records import LayerDrift, Likeness, Moved, Pair, RunAnalysis, SiteLikeness, SiteUpdate
from lorakit.reporting.analysis.tables import tables
from lorakit.reporting.analysis.words import amplified_words, facts, pair_words, passages, shares


def site(role: str, layer: int, norm: float, **given: Any) -> SiteUpdate:
    values = {"rank": 2, "directions": 2, "values": [0.8 * norm, 0.6 * norm], "chance_values": [norm, norm]}
    numbers = {"norm": norm, "leading_norm": norm, "effective_rank": 1.5, "chance_rank": 2.0}
    weight = {"weight_norm": 10.0, "in_own": 0.5, "in_top": 8.0, "in_random": 0.1}
    return SiteUpdate(
        f"{layer}.{role}", layer, role, (4, 8 if role == "down" else 4), **values, **numbers, **(weight | given)
    )


NONE = dict.fromkeys(("weight_norm", "in_own", "in_top", "in_random"))


def run(sites: list[SiteUpdate], **given: Any) -> RunAnalysis:
    told = {"method": "lora", "weights": "last", "seed": 0, "left_out": {}, "notes": [], "moved": [], "points": []}
    return RunAnalysis(Path("runs/a"), "a", **told | {"sites": sites} | given)


def words_of(analysis: RunAnalysis) -> str:
    return " ".join(sentence for passage in passages([analysis], []) for sentence in passage.sentences)


def test_shares_are_of_squared_norms_beside_those_of_entries():
    found = shares([site("q", 0, 1.0), site("q", 1, 1.0), site("down", 0, 2.0)])
    assert found == [
        ("down", pytest.approx(4 / 6), pytest.approx(32 / 64)),
        ("q", pytest.approx(2 / 6), pytest.approx(32 / 64)),
    ]


def test_amplification_is_the_norm_over_what_w_has_there():
    one = site("q", 0, 2.0)
    assert (one.relative, one.amplification, one.amplification_top) == (0.2, 4.0, 0.25)
    assert one.amplification_random == pytest.approx(20)
    bare = site("res1", 0, 2.0, **NONE)
    assert bare.relative is bare.amplification is bare.amplification_top is None


@pytest.mark.parametrize(
    ("ours", "told"),
    [
        (300, "less than chance"),
        (95, "nothing to do with what W does"),
        (3, "nearer to W's strongest"),
        (40, "stresses what W does not"),
    ],
)
def test_amplification_is_read_between_its_controls(ours, told):
    assert told in amplified_words(ours, top=1.0, random=100.0)


def test_an_update_on_nothing_has_no_amplification_and_one_of_no_matrix_a_reason():
    assert "There is no W beneath these sites" in words_of(run([site("res1", 0, 1.0, **NONE)]))
    told = words_of(
        run([], left_out={"a bottleneck is not linear": ["x", "y"]}, without_drift="no rows were asked for")
    )
    assert "2 sites left out: a bottleneck is not linear." in told
    assert "Features were not compared: no rows were asked for." in told


def test_directions_that_two_runs_have_by_their_method_are_told():
    def side(name: str, whole: float) -> Likeness:
        return Likeness(name, [[1.0]], [[0.1]], [SiteLikeness("0.q", 0, "q", 4, 0.5, 0.03, whole, 0.1)])

    pair = Pair("a", "b", [side("inputs", 1.0), side("outputs", 0.6)], [], [], same_seed=False)
    assert "In dW's inputs both are confined to the same directions" in " ".join(pair_words(pair))
    assert "confined" not in " ".join(pair_words(replace(pair, sides=pair.sides[1:])))


def test_a_run_with_fewer_layers_leaves_its_cells_empty():
    one = run([], drift=[LayerDrift(0, 0.9, 0.4)], rows=8)
    two = run([], drift=[LayerDrift(0, 0.8, 0.4), LayerDrift(1, 0.7, 0.4)], rows=8)
    assert tables([one, two], [])[0].rows[1] == ["1", "", "", "0.7000", "0.4000"]


def test_what_a_run_came_to_is_on_its_page():
    told = words_of(run([site("q", 0, 1.0)], score="accuracy 0.5000", warnings=["it answers 'no' for all rows"]))
    assert "a has accuracy 0.5000 on its validation rows. It answers 'no' for all rows." in told
    assert "a run with another seed beside it tells" in told


def test_a_correlation_is_told_beside_that_of_random_updates():
    points = [
        Moved("0.q", 0, "q", when, x, y, 1.0 + x, 1.0 - x)
        for when, x, y in (("step 1", 1, 1), ("step 2", 2, 3), ("last", 3, 2))
    ]
    analysis = run([site("q", 0, 1.0)], moved=points, points=["step 1", "step 2", "last"])
    assert analysis.correlation == pytest.approx(0.5)
    assert analysis.random_correlation == pytest.approx(-1)
    assert (
        "correlate at +0.50 over 3 points (step 1, step 2 and last); random updates of the same sizes at -1.00"
        in words_of(analysis)
    )
    assert ("correlation of dM and dD", "+0.50 (random -1.00)") in facts([analysis], [])
    two = run([site("q", 0, 1.0)], moved=points[:2], points=["best", "last"])
    assert "2 points (best and last) are too few" in words_of(two)


def test_every_table_and_figure_has_the_numbers_it_can():
    whole = run(
        [site("q", 0, 1.0), site("v", 1, 2.0), site("res1", 0, 1.0, **NONE)], drift=[LayerDrift(0, 0.99, 0.4)], rows=8
    )
    assert [table.title for table in tables([whole], [])] == ["Roles", "Features by layer"]
    assert [drawing.name for drawing in drawings([whole], [])] == [
        "drift",
        "norms",
        "amplification",
        "ranks",
        "spectra",
    ]
    assert tables([whole], [])[0].rows[2][2] == "none"
