"""The ruler that mechanisms are measured by (``scripts/evidence.py``)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import evidence  # noqa: E402
import evidence_data  # noqa: E402
import evidence_stats  # noqa: E402


@pytest.fixture(scope="module")
def outputs() -> tuple[np.ndarray, np.ndarray]:
    """Logits (4000, 3) of a model that is three times too sure, and labels drawn from what it should say."""
    draw = np.random.default_rng(0)
    honest = draw.normal(size=(4_000, 3)) * 1.5
    labels = np.array([draw.choice(3, p=chances) for chances in softmax(honest, axis=1)])
    return honest * 3, labels


def test_plain_losses_are_scikit_learns(outputs):
    logits, labels = outputs
    assert evidence_stats.raw_losses(logits, labels).mean() == pytest.approx(log_loss(labels, softmax(logits, axis=1)))


def test_a_temperature_of_the_other_half_makes_up_for_being_too_sure(outputs):
    logits, labels = outputs
    honest = log_loss(labels, softmax(logits / 3, axis=1))
    tempered = evidence_stats.tempered_losses(logits, labels).mean()
    assert tempered == pytest.approx(honest, abs=0.003)
    assert evidence_stats.raw_losses(logits, labels).mean() > honest + 0.1


def test_no_row_is_scored_by_a_temperature_that_it_helped_to_fit(outputs):
    logits, labels = outputs
    before = evidence_stats.tempered_losses(logits, labels)
    changed = labels.copy()
    changed[0] = (labels[0] + 1) % 3
    after = evidence_stats.tempered_losses(logits, changed)
    moved = np.flatnonzero(before != after)
    own_half = (
        np.random.default_rng(0).permutation(len(labels)) % 2
        == np.random.default_rng(0).permutation(len(labels))[0] % 2
    )
    assert set(np.flatnonzero(own_half)) & set(moved) == {0}  # by its own label, not by a temperature
    assert len(moved) > len(labels) // 2 - 10


def test_the_interval_is_that_of_seeds_and_rows_together():
    draw = np.random.default_rng(1)
    seeds, rows = 30, 2_000
    values = draw.normal(size=(seeds, 1)) * 0.5 + draw.normal(size=(1, rows)) * 3.0
    expected = np.sqrt(values.mean(axis=1).var() / seeds + values.mean(axis=0).var() / rows)
    assert evidence_stats.crossed(values).std() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        ((0.02, 0.005, 0.03), "better"),
        ((0.02, -0.001, 0.04), "open"),
        ((0.004, 0.001, 0.007), "no"),
        ((-0.02, -0.03, -0.01), "worse"),
        ((0.008, 0.004, 0.012), "open"),
    ],
)
def test_what_counts(gap, verdict):
    assert evidence_stats.counts(evidence_stats.Gap(*gap, seeds=4), 0.01) == verdict


def test_a_seed_draws_its_own_rows_and_holds_out_others():
    pool = pd.DataFrame({"text": [f"row {number}" for number in range(3_000)], "label": "a"})
    rows = evidence_data.Rows(pool, pool[:0])
    first, held = rows.drawn(500, 0)
    assert (len(first), len(held)) == (500, 1_000)
    assert not set(first["text"]) & set(held["text"])
    assert set(first["text"]) == set(rows.drawn(500, 0)[0]["text"]) != set(rows.drawn(500, 1)[0]["text"])
    assert set(first["text"]) < set(rows.drawn(1_000, 0)[0]["text"])  # fewer rows are a part of more
    assert [len(part) for part in rows.drawn(9_999, 0)] == [2_600, 400]


def test_phrases_of_tested_sentences_are_no_training_rows():
    words = [f"w{number}" for number in range(200)]
    sentences = [" ".join(words[start : start + 14]) for start in (0, 50, 100)]
    train = pd.DataFrame(
        {
            "sentence": [*sentences, " ".join(words[3:9]), " ".join(words[2:4]), "quite another thing altogether here"],
            "label": 1,
        }
    )
    validation = pd.DataFrame({"sentence": [" ".join(words[150:164]), " "], "label": 0})[:1]
    rows = evidence_data.by_sentence(train, validation)
    assert set(rows.test["text"]) == {*sentences, " ".join(words[150:164])}
    assert set(rows.train["text"]) == {" ".join(words[2:4]), "quite another thing altogether here"}


def test_sides_of_the_same_keys_share_their_units(tmp_path):
    import evidence_unit

    def file(**side: object) -> Path:
        return evidence_unit.Unit.of(side, "subj", "0.001", 0).file(tmp_path)

    assert file(**{"adapter.rank": 8, "training.clip": 1.0}) == file(**{"training.clip": 1.0, "adapter.rank": 8})
    assert file(**{"adapter.rank": 8}) != file(**{"adapter.rank": 4})


def test_a_question_tunes_each_side_and_waits_for_it(tmp_path):
    given = {
        "title": "?",
        "tasks": ["subj", "cr@500"],
        "rates": [1e-3, 2e-3],
        "sides": {"a": {}, "b": {"training.lr": "auto"}},
    }
    question = evidence.Question("q", given, tmp_path, tmp_path, 1)
    assert [unit.rate for unit in question.tuning("a", "subj")] == ["0.001", "0.002"]
    assert question.chosen("a", "subj") == []
    assert question.chosen("b", "subj") == ["auto"]
    assert question.waiting
    assert question.reference == "a"
    assert {unit.scored for unit in question.units() if unit.rate != "auto"} == {"held"}


def test_steps_to_a_loss_are_read_between_the_points():
    import evidence_report

    curve = (np.array([0.25, 0.5, 0.75, 1.0]), np.array([0.9, 0.5, 0.3, 0.4]))
    assert evidence_report.share_to_reach(curve, 0.4) == pytest.approx(0.625)
    assert evidence_report.share_to_reach(curve, 0.95) == 0.25
    assert evidence_report.share_to_reach(curve, 0.2) is None
