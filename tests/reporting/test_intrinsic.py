"""The smallest dimension that is enough, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lorakit.reporting.intrinsic import (
    IntrinsicCurve,
    Subspace,
    intrinsic_facts,
    intrinsic_figure,
    intrinsic_table,
    intrinsic_words,
    smallest,
)

SUBSPACES = [
    Subspace("did", 16, {0: 0.5, 1: 0.7}),
    Subspace("did", 64, {0: 0.9, 1: 0.7}),
    Subspace("did", 256, {0: 0.7}),
]
CURVE = IntrinsicCurve("sst2", "accuracy", {0: 0.9, 1: 0.8}, 5000, 66, 0.5, 0.6, SUBSPACES)


def words(curve: IntrinsicCurve) -> str:
    return " ".join(sentence for passage in intrinsic_words(curve) for sentence in passage.sentences)


@pytest.mark.parametrize(
    ("aim", "seed", "expected"),
    [
        (0.6, None, 16),
        (0.61, None, 64),
        (0.8, None, 64),
        (0.81, None, None),
        (0.7, 1, 16),
        (0.7, 0, 64),
        (0.1, 2, None),
    ],
)
def test_the_first_that_reaches_the_aim(aim: float, seed: int | None, expected: int | None) -> None:
    assert smallest(SUBSPACES, aim, seed) == expected
    assert smallest(SUBSPACES[::-1], aim, seed) == expected


def test_aims_are_ninety_percent_of_the_score_and_of_the_gain() -> None:
    assert CURVE.aim == pytest.approx(0.9 * 0.85)
    assert CURVE.aim_of_gain == pytest.approx(0.6 + 0.9 * 0.25)
    assert replace(CURVE, frozen=0.86).aim_of_gain is None
    assert replace(CURVE, frozen=None).aim_of_gain is None


def test_a_larger_subspace_below_the_aim_is_named() -> None:
    assert "d90 is 64, with 0.8000. Larger ones are below that again: 256." in words(CURVE)
    assert "from 64 to 256 they fall by 0.1000" in words(CURVE)


def test_the_smallest_that_was_tried_may_not_be_the_smallest() -> None:
    assert "the smallest that was tried: it may be lower" in words(replace(CURVE, full={0: 0.6}))


def test_where_nothing_need_be_learnt_d90_says_nothing() -> None:
    assert "d90 says nothing" not in words(CURVE)
    assert "no subspace is needed for that" in words(replace(CURVE, frozen=0.8))
    assert "The most common label alone has 0.8000" in words(replace(CURVE, majority=0.8))
    assert intrinsic_facts(replace(CURVE, majority=0.8))[-1] == ("d90, DID", "64 (and without any)")


def test_numbers_of_the_page() -> None:
    assert intrinsic_facts(CURVE) == [("full fine-tuning", "0.8500"), ("frozen features", "0.6000"), ("d90, DID", "64")]
    table = intrinsic_table(replace(CURVE, subspaces=[*SUBSPACES, Subspace("said", 16, {0: 0.85})]))
    assert table.columns == ["d", "DID", "of full", "SAID", "of full"]
    assert table.rows[0] == ["0 (frozen features)", "0.6000", "71 %", "0.6000", "71 %"]
    assert table.rows[1] == ["16", "0.6000", "71 %", "0.8500", "100 %"]
    assert table.rows[2][3:] == ["", ""]
    assert table.rows[-1] == ["5,000 (full)", "0.8500", "100 %", "0.8500", "100 %"]


def test_the_figure_has_means_runs_and_lines() -> None:
    axes = intrinsic_figure(CURVE).figure.axes[0]
    curve, *lines = axes.get_lines()
    assert curve.get_xydata().tolist() == [[16, 0.6], [64, 0.8], [256, 0.7]]
    assert [line.get_ydata()[0] for line in lines] == pytest.approx([0.85, 0.765, 0.6])
    assert len(axes.collections[0].get_offsets()) == 5


@pytest.mark.parametrize("full", [{0: -0.2, 1: 0.1}, {0: 0.0}])
def test_there_is_no_ninety_percent_of_a_score_that_is_not_above_0(full: dict[int, float]) -> None:
    """Of -0.05, 90 % are -0.045: more than full fine-tuning has itself."""
    curve = replace(CURVE, metric="matthews_correlation", full=full, frozen=0.1)
    assert (curve.aim, smallest(SUBSPACES, curve.aim)) == (None, None)
    assert "which is not above 0: there is no d90 of that" in words(curve)
    assert ("d90, DID", "none") in intrinsic_facts(curve)
    assert intrinsic_table(curve).rows[1] == ["16", "0.6000", ""]
    assert len(intrinsic_figure(curve).figure.axes[0].get_lines()) == 3
    below = replace(curve, frozen=-0.5)
    assert smallest(SUBSPACES, below.aim_of_gain) == 16
    assert "90 % are reached at 16 (DID)" in words(below)


def test_means_over_other_seeds_and_dimensions_without_runs_are_named() -> None:
    assert "Means are not all over the same seeds: DID 256 without seed 1." in words(CURVE)
    assert "full without seeds 1 and 2" in words(
        replace(CURVE, full={0: 0.9}, subspaces=[Subspace("did", 8, {0: 1.0, 1: 1.0, 2: 1.0})])
    )
    assert "same seeds" not in words(replace(CURVE, subspaces=SUBSPACES[:2]))
    absent = [("did", 32), ("did", 128), ("said", 8)]
    assert "No run of 32 is there, which may be enough." in words(replace(CURVE, absent=absent))
    assert "No run of 32 and 128 is there" in words(replace(CURVE, full={0: 1.0, 1: 1.0}, absent=absent))
    assert "is there" not in words(replace(CURVE, absent=[("did", 128)]))
    assert "SAID, a scalar a layer: no run is there." in words(replace(CURVE, absent=absent))
