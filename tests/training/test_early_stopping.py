"""A training ends once its score no longer gets better, wherever it was interrupted; and a run may select its best weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.runs import Bench, StopAt, records

import lorakit
from lorakit.artifacts.files import read_json, read_jsonl
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted
from lorakit.reporting.summary import outcome_words
from lorakit.training.early_stopping import stopped_words, watch
from lorakit.training.hooks import TrainState
from lorakit.workflow.doctor.environment import OK
from lorakit.workflow.doctor.run_folder import check_run
from lorakit.workflow.records import read_run
from lorakit.workflow.train import TrainResult

STILL = ("training.lr=1e-12", "evaluation.every_steps=2", "run.log_every=5")  # the score never moves
PATIENT = (*STILL, "training.early_stopping={patience: 2}")
UNITS = ("search.method=adalora", "adapter.method=adalora", "search.enable=0.5", "search.every=0.5")


def waits(metric: str, scores: list[float], **settings: float) -> list[tuple[int, bool]]:
    state, found = TrainState(total_steps=100, steps_per_epoch=10), []
    for state.step, score in enumerate(scores, 1):
        state.scores = {metric: score}
        watch(state, metric, settings)
        found.append((state.waited, state.stopped))
    return found


def test_only_a_better_score_counts():
    scores = [0.5, 0.6, 0.6, 0.55, 0.61, 0.6]
    assert [waited for waited, _ in waits("accuracy", scores, patience=9)] == [0, 0, 1, 2, 0, 1]
    assert waits("accuracy", scores, patience=2)[3] == (2, True)
    assert [waited for waited, _ in waits("mse", scores, patience=9)] == [0, 1, 2, 3, 4, 5]


def test_small_gains_add_up_to_one_that_counts():
    """Each is compared with the last score that counted, not with the best."""
    scores = [0.5, 0.504, 0.508, 0.512, 0.516]
    assert [waited for waited, _ in waits("f1", scores, patience=9, min_delta=0.01)] == [0, 1, 2, 0, 1]


def test_after_the_last_step_there_is_nothing_to_stop():
    state = TrainState(total_steps=5, steps_per_epoch=5, step=5, waited=0, improved=0.5, scores={"f1": 0.1})
    watch(state, "f1", {"patience": 1})
    assert not state.stopped
    assert stopped_words(state, "f1", {"patience": 1}) == ""


@pytest.fixture(scope="module")
def early(bench: Bench) -> TrainResult:
    """Scores after 2, 4 and 6 of 12 steps, the second and third no better than the first."""
    return bench.train(*PATIENT)


def test_the_run_ends_cleanly(bench: Bench, early: TrainResult):
    assert (early.steps, early.planned_steps, early.epochs) == (6, 12, 1.0)
    assert early.stopped.startswith("stopped at step 6 of 12: accuracy had not become better than ")
    assert early.stopped.endswith(" for 2 evaluations; 50% of the steps were saved")
    summary = read_json(early.run_dir / "summary.json")
    assert summary["stopped"] == early.stopped
    assert (early.run_dir / "checkpoints" / "step-6").is_dir()
    lines = read_jsonl(early.run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [5, 6]
    whole = bench.train(*STILL)
    assert whole.stopped == ""
    scores = [line for line in read_jsonl(whole.run_dir / "metrics.jsonl") if "scores" in line]
    assert [line for line in lines if "scores" in line] == scores[:3]


def test_what_reads_runs_tells_it(early: TrainResult):
    assert f"It {early.stopped}." in outcome_words(read_run(Run(early.run_dir)).outcome)
    assert [row for row in check_run(early.run_dir) if row.verdict != OK] == []


def test_an_interrupted_run_stops_where_the_whole_one_does(bench: Bench, early: TrainResult, tmp_path: Path):
    with pytest.raises(Interrupted):
        bench.train(*PATIENT, hooks=[StopAt(5)], run_dir=tmp_path / "run")
    resumed = bench.train(*PATIENT, run_dir=tmp_path / "run", resume=True)
    assert records(resumed.run_dir) == records(early.run_dir)


def test_a_run_killed_after_it_stopped_only_ends(bench: Bench, early: TrainResult, tmp_path: Path):
    shutil.copytree(early.run_dir, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "run" / "adapter")
    resumed = bench.train(*PATIENT, run_dir=tmp_path / "run", resume=True)
    assert records(resumed.run_dir) == records(early.run_dir)


def test_a_search_comes_to_its_budget_first(bench: Bench):
    """The last tick, before step 9, decides: scores after steps 10 and 11 are the first that count. Best weights keep the budget too."""
    settings = ("training.early_stopping={patience: 1}", "training.select=best", "evaluation.every_steps=1")
    result = bench.train(*UNITS, "training.lr=1e-12", *settings)
    assert (result.steps, result.best_step) == (11, 10)
    assert result.adapter_parameters <= result.budget
    best = lorakit.load(result.run_dir).adapted
    assert best.adapter_parameters() <= result.budget


def test_an_update_ends_first(bench: Bench):
    settings = ("training.early_stopping={patience: 1}", "evaluation.every_steps=1", "training.lr=1e-12")
    rose = ("adapter.updates=[rose]", "adapter.update_options={begin: 0.1, settle: 0.5, keep: 0.5}")
    assert bench.train(*rose, *settings).steps == 7  # the final share is reached at step 6


@pytest.fixture(scope="module")
def chosen(bench: Bench) -> TrainResult:
    """A run whose last weights are not its best ones, which it selects."""
    return bench.train("evaluation.every_steps=1", "training.lr=0.1", "training.select=best")


def test_the_selected_weights_are_used(chosen: TrainResult, tmp_path: Path):
    assert chosen.selected == "best"
    assert chosen.best_step < chosen.steps
    assert chosen.best["accuracy"] > chosen.last["accuracy"]
    found = lorakit.evaluate(chosen.run_dir)
    assert found.scores == chosen.best
    assert found.source.endswith("(best weights)")
    assert found.diagnosis is not None
    assert found.diagnosis.confusion == chosen.confusion
    assert lorakit.evaluate(chosen.run_dir, weights="last").scores == chosen.last
    lorakit.merge(chosen.run_dir, out=tmp_path / "merged")
    assert read_json(tmp_path / "merged" / "lorakit.json")["weights"] == "best"
    texts = ["good sun", "dog"]
    answers = [lorakit.predict(chosen.run_dir, texts, weights=which) for which in (None, "best")]
    assert answers[0] == answers[1]
    card = lorakit.export(chosen.run_dir, out=tmp_path / "peft").out / "README.md"
    assert f"{chosen.best['accuracy']:.4f}" in card.read_text(encoding="utf-8")


def test_a_resumed_run_knows_what_its_best_weights_said(bench: Bench, chosen: TrainResult, tmp_path: Path):
    settings = ("evaluation.every_steps=1", "training.lr=0.1", "training.select=best")
    with pytest.raises(Interrupted):
        bench.train(*settings, hooks=[StopAt(chosen.best_step + 1)], run_dir=tmp_path / "run")
    resumed = bench.train(*settings, run_dir=tmp_path / "run", resume=True)
    assert records(resumed.run_dir) == records(chosen.run_dir)
