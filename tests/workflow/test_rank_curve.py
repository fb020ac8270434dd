"""One run at several ranks: each point is what `lorakit eval --rank` gives, and the report shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss
from support.pages import read_page
from support.runs import Bench

import lorakit
from lorakit.artifacts.rank_curve_file import FILE, read_curve
from lorakit.artifacts.run import Run
from lorakit.errors import RunError, UsageError
from lorakit.workflow.cut_to_rank import ranks_from
from lorakit.workflow.rank_curve import RankCurve
from lorakit.workflow.restore import restore_run
from lorakit.workflow.trained import TrainedClassifier


@pytest.fixture(scope="module")
def run(bench: Bench) -> Path:
    return bench.train("adapter.rank=4", "adapter.dropout=0", "training.lr=0.02", name="curve").run_dir


@pytest.fixture(scope="module")
def curve(run: Path) -> RankCurve:
    return lorakit.rank_curve(run)


def test_each_point_is_the_run_at_that_rank(run: Path, curve: RankCurve) -> None:
    assert [point.rank for point in curve.points] == [4, 2, 1]
    assert [point.parameters for point in curve.points] == [rank * curve.points[-1].parameters for rank in (4, 2, 1)]
    scored = lorakit.evaluate(run, rank=2)
    assert scored.trust is not None
    assert curve.points[1].scores == scored.scores
    assert curve.points[1].log_loss == pytest.approx(scored.trust.plain.log_loss, rel=1e-6)
    restored = restore_run(run, None, rank=1)
    encoded, logits = TrainedClassifier(restored.adapted, restored.loaded.recipe, "").logits(
        restored.parts.data, curve.split
    )
    assert curve.points[-1].log_loss == pytest.approx(log_loss(encoded.labels, softmax(logits, axis=1)), rel=1e-5)


@pytest.mark.usefixtures("unrendered")
def test_it_says_whose_rows_they_are_and_the_report_shows_it(run: Path, curve: RankCurve) -> None:
    assert "validation rows" in curve.note
    assert read_curve(Run(run)) == curve.points
    told = lorakit.report(run)
    assert told.rank_curve == curve.points
    assert "rank_curve.png" in [path.name for path in told.figures]
    assert {f"{point.log_loss:.4f}" for point in curve.points} <= set(read_page(told.page).text)


def test_rows_that_are_not_the_run_s_own_are_not_kept(run: Path, curve: RankCurve) -> None:
    kept = (run / FILE).read_text()
    other = lorakit.rank_curve(run, "1", split="train")
    assert "validation" not in other.note
    assert (run / FILE).read_text() == kept
    json.dumps(other.to_dict(), allow_nan=False)


def test_a_broken_file_is_named(run: Path, curve: RankCurve) -> None:
    kept = (run / FILE).read_text()
    (run / FILE).write_text('{"points": [{"rank": 0}]}')
    with pytest.raises(RunError, match="rank"):
        read_curve(Run(run))
    (run / FILE).write_text(kept)


@pytest.mark.parametrize(("text", "ranks"), [("1,2,2,5", [5, 2, 1]), ("all", [6, 4, 2, 1]), (" 3 ", [3])])
def test_ranks(text: str, ranks: list[int]) -> None:
    assert ranks_from(text, 6, "") == ranks


@pytest.mark.parametrize("text", ["", "1,x", "7", "0", "1;2"])
def test_what_are_no_ranks(text: str) -> None:
    with pytest.raises(UsageError):
        ranks_from(text, 6, "")
