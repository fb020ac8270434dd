"""Evaluation repeats the run's own numbers, and says what it cannot score."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, f1_score, mean_squared_error
from support.runs import VALIDATION_ROWS, Bench, edited_json, make_rows
from support.thinned import thinned
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import lorakit
from lorakit.errors import LorakitError, RunError, UsageError
from lorakit.workflow.train import TrainResult


@pytest.fixture(scope="module")
def sst2(bench: Bench) -> TrainResult:
    """A run of a GLUE task."""
    return bench.train("training.lr=0.02", kind="sst2", name="sst2")


@pytest.mark.parametrize("weights", ["last", "best"])
def test_the_runs_numbers_exactly(finished, searched, sst2, weights: str):
    for run in (finished, searched, sst2):
        evaluated = lorakit.evaluate(run.run_dir, task=run.task, weights=weights)
        assert evaluated.scores == getattr(run, weights)
        assert (evaluated.split, evaluated.rows, evaluated.metric) == ("validation", VALIDATION_ROWS, run.metric)
        assert evaluated.interval is not None
        low, high = evaluated.interval
        assert low <= evaluated.scores[run.metric] <= high


@pytest.mark.parametrize("metric", thinned(["pearson", "mse"], 2))
def test_last_and_best_of_a_regression(bench: Bench, metric: str):
    """Numbers that differ at every evaluation, so that one set of weights cannot pass for the other."""
    settings = (
        f"task.metric={metric}",
        "training.lr=0.05",
        "training.epochs=3",
        "evaluation.every_steps=2",
        "run.seed=1",
    )
    run = bench.train(*settings, kind="number")
    assert run.best_step < run.steps
    assert run.best != run.last
    for weights in ("last", "best"):
        evaluated = lorakit.evaluate(run.run_dir, task="custom", weights=weights)
        assert evaluated.scores == getattr(run, weights)
        assert evaluated.metric == metric


def test_scores_are_scikit_learns(bench: Bench, finished: TrainResult, tmp_path: Path):
    """From the predictions file to the labels in the csv, by another road."""
    file = tmp_path / "deep" / "predictions.csv"
    evaluated = lorakit.evaluate(finished.run_dir, task="custom", predictions=file)
    assert evaluated.predictions == file
    with (bench.data() / "validation.csv").open() as stream:
        labels = [row["label"] for row in csv.DictReader(stream)]
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    guesses = [row["prediction"] for row in rows]
    assert [int(row["idx"]) for row in rows] == list(range(VALIDATION_ROWS))
    assert evaluated.scores["accuracy"] == pytest.approx(accuracy_score(labels, guesses))
    assert evaluated.scores["f1"] == pytest.approx(f1_score(labels, guesses, pos_label="plain"))
    for row in rows:
        chances = {name: float(row[f"probability_{name}"]) for name in ("happy", "plain")}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == max(chances, key=lambda name: chances[name])


def test_predicted_numbers(bench: Bench, tmp_path: Path):
    run = bench.train("training.max_steps=3", kind="number")
    evaluated = lorakit.evaluate(run.run_dir, task="custom", predictions=tmp_path / "numbers.csv")
    with (bench.data() / "validation.csv").open() as stream:
        numbers = [float(row["number"]) for row in csv.DictReader(stream)]
    with (tmp_path / "numbers.csv").open() as stream:
        guesses = [float(row["prediction"]) for row in csv.DictReader(stream)]
    assert evaluated.scores["mse"] == pytest.approx(mean_squared_error(numbers, guesses), rel=1e-4)


def test_a_split_without_labels_is_predicted_not_scored(sst2: TrainResult, tmp_path: Path):
    file = tmp_path / "SST-2.tsv"
    evaluated = lorakit.evaluate(sst2.run_dir, task="sst2", split="test", predictions=file)
    assert (evaluated.scores, evaluated.interval, evaluated.rows) == ({}, None, VALIDATION_ROWS)
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    assert lines[0] == ["index", "prediction"]
    assert [int(index) for index, _ in lines[1:]] == list(range(VALIDATION_ROWS))
    assert {label for _, label in lines[1:]} <= {"0", "1"}
    assert json.loads(json.dumps(evaluated.to_dict()))["scores"] == {}


def test_the_test_file_of_a_custom_task(finished: TrainResult):
    """It holds the validation rows once more, labels and all."""
    assert lorakit.evaluate(finished.run_dir, task="custom", split="test").scores == finished.last


def test_the_training_rows_too(finished: TrainResult):
    assert lorakit.evaluate(finished.run_dir, task="custom", split="train").rows == 45


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("custom", {"split": "tset"}, "no split 'tset'"),
        ("sst2", {}, "this run learnt custom, not sst2"),
        ("sts2", {}, "sts2"),
        ("custom", {"model": "another"}, "--run and --model exclude each other"),
    ],
)
def test_wrong_questions_about_a_run(finished, task: str, options: dict[str, str], message: str):
    with pytest.raises(UsageError, match=message) as caught:
        lorakit.evaluate(finished.run_dir, task=task, **options)
    assert caught.value.exit_code == 2


def test_a_run_knows_its_task_and_a_checkpoint_is_told(sst2: TrainResult):
    assert lorakit.evaluate(str(sst2.run_dir)).scores == sst2.last
    with pytest.raises(UsageError, match="does not say what it was trained for"):
        lorakit.evaluate(model="somewhere")


def test_weights_that_are_not_there(copied: Path):
    import shutil

    shutil.rmtree(copied / "best")
    assert lorakit.evaluate(copied, task="custom").rows == VALIDATION_ROWS
    with pytest.raises(RunError, match="has no best adapter"):
        lorakit.evaluate(copied, task="custom", weights="best")


def test_a_folder_that_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="not a run folder"):
        lorakit.evaluate(tmp_path, task="sst2")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no finished run of sst2"):
        lorakit.evaluate(task="sst2")


def test_the_newest_run_of_the_task(sst2: TrainResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import shutil

    shutil.copytree(sst2.run_dir, tmp_path / "runs" / "sst2-0")
    monkeypatch.chdir(tmp_path)
    evaluated = lorakit.evaluate(task="sst2")
    assert evaluated.source == "runs/sst2-0 (last weights)"
    assert evaluated.scores == sst2.last


def test_a_checkpoint_without_a_trained_head_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LORAKIT_GLUE_DIR", str(bench.data()))
    with pytest.raises(UsageError, match="no trained head for sst2") as caught:
        lorakit.evaluate(task="sst2", model=str(bench.backbone()), offline=True)
    assert caught.value.exit_code == 2
    with pytest.raises(LorakitError):
        lorakit.evaluate(task="custom", model=str(bench.backbone()), offline=True)


def test_a_classifier_from_elsewhere(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """One that transformers saved: its accuracy by transformers alone."""
    import torch

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), num_labels=2).eval()
    tokenizer = AutoTokenizer.from_pretrained(bench.backbone())
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rows = [line.split("\t") for line in (bench.data() / "SST-2" / "dev.tsv").read_text().splitlines()[1:]]
    with torch.no_grad():
        guesses = [model(**tokenizer(text, return_tensors="pt")).logits.argmax().item() for text, _ in rows]
    expected = np.mean([guess == int(label) for guess, (_, label) in zip(guesses, rows, strict=True)])

    monkeypatch.setenv("LORAKIT_GLUE_DIR", str(bench.data()))
    evaluated = lorakit.evaluate(task="sst2", model=str(tmp_path), offline=True)
    assert evaluated.scores == {"accuracy": pytest.approx(expected)}
    assert evaluated.source == str(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param((), marks=pytest.mark.slow),
        ("adapter.shortcuts=[res1,in]", "adapter.method=dora"),
        ("model.quantization=int4", "adapter.method=qa_lora"),
    ],
)
def test_the_merged_model_scores_what_the_run_scores(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: tuple[str, ...]
):
    run = bench.train("training.lr=0.02", "task.max_length=8", *settings, kind="sst2")
    lorakit.merge(run.run_dir, out=tmp_path / "merged")
    monkeypatch.setenv("LORAKIT_GLUE_DIR", str(bench.data()))
    merged = lorakit.evaluate(task="sst2", model=str(tmp_path / "merged"), offline=True)
    assert merged.scores == lorakit.evaluate(run.run_dir, task="sst2").scores == run.last


def test_outputs_are_matched_by_name(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A checkpoint with the same labels in another order is as right as one in ours."""
    run = bench.train("training.lr=0.02", kind="sst2")
    lorakit.merge(run.run_dir, out=tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    model.classifier.weight.data = model.classifier.weight.data.flip(0)
    model.classifier.bias.data = model.classifier.bias.data.flip(0)
    model.config.id2label = {0: "Positive", 1: "Negative"}
    model.save_pretrained(tmp_path / "turned")
    AutoTokenizer.from_pretrained(tmp_path / "merged").save_pretrained(tmp_path / "turned")
    monkeypatch.setenv("LORAKIT_GLUE_DIR", str(bench.data()))
    assert lorakit.evaluate(task="sst2", model=str(tmp_path / "turned"), offline=True).scores == run.last


def test_other_names_are_taken_by_place_with_a_word(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = bench.train("training.lr=0.02", kind="sst2")
    lorakit.merge(run.run_dir, out=tmp_path / "merged")
    with edited_json(tmp_path / "merged" / "config.json") as config:
        config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1"}
        config["label2id"] = {"LABEL_0": 0, "LABEL_1": 1}
    monkeypatch.setenv("LORAKIT_GLUE_DIR", str(bench.data()))
    assert lorakit.evaluate(task="sst2", model=str(tmp_path / "merged"), offline=True).scores == run.last
    assert "calls its outputs LABEL_0, LABEL_1: they are taken, in this order, for negative, positive" in caplog.text


def test_mnli_is_scored_on_both_validation_splits(bench: Bench, tmp_path: Path):
    """In training and afterwards; the two accuracies against predictions counted by hand."""
    folder = tmp_path / "mnli"
    folder.mkdir()
    for seed, (split, number) in enumerate((("train", 40), ("validation_matched", 12), ("validation_mismatched", 9))):
        made = make_rows(number, seed=seed)
        columns = {
            "premise": [row["first"] for row in made],
            "hypothesis": [row["second"] or "yes" for row in made],
            "label": [place % 3 for place in range(number)],
            "idx": list(range(number)),
        }
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    settings = ("task.name=mnli", f"task.data={tmp_path}", "task.train=null", "task.validation=null", "task.test=null")
    run = bench.train(*settings, "task.text=null", "task.label=null", "training.max_steps=3")
    both = lorakit.evaluate(run.run_dir, task="mnli")
    assert both.scores == run.last
    assert both.split == "validation_matched, validation_mismatched"
    assert both.rows == 21
    for split, name in (
        ("validation_matched", "accuracy"),
        ("validation_mismatched", "accuracy/validation_mismatched"),
    ):
        table = tmp_path / f"{split}.csv"
        alone = lorakit.evaluate(run.run_dir, task="mnli", split=split, predictions=table)
        with table.open() as stream:
            guesses = [row["prediction"] for row in csv.DictReader(stream)]
        names = ("entailment", "neutral", "contradiction")
        right = np.mean([guess == names[place % 3] for place, guess in enumerate(guesses)])
        assert both.scores[name] == alone.scores["accuracy"] == pytest.approx(right)
    with pytest.raises(UsageError, match="takes one split"):
        lorakit.evaluate(run.run_dir, task="mnli", predictions=tmp_path / "both.csv")


@pytest.mark.parametrize("kind", ["one", "sst2"])
def test_the_validation_rows_that_held_out_rows_replaced(bench: Bench, tmp_path: Path, kind: str):
    """Scored by the answers that the run gives to them as texts."""
    run = bench.train("task.holdout=0.3", "training.max_steps=2", kind=kind, name=f"held-{kind}").run_dir
    found = lorakit.evaluate(run, split="replaced_validation")
    assert (found.split, found.rows) == ("replaced_validation", VALIDATION_ROWS)
    rows = [row["sentence"] for row in make_rows(VALIDATION_ROWS, seed=VALIDATION_ROWS)]
    labels = ["happy" if kind == "one" else "positive", "plain" if kind == "one" else "negative"]
    right = [row["label"] for row in make_rows(VALIDATION_ROWS, seed=VALIDATION_ROWS)]
    answers = [each.label for each in lorakit.predict(run, rows)]
    expected = np.mean([labels[each == "plain"] == answer for each, answer in zip(right, answers, strict=True)])
    assert found.scores["accuracy"] == pytest.approx(expected)
    with pytest.raises(UsageError, match="no split 'replaced_test'") as told:
        lorakit.evaluate(run, split="replaced_test")
    assert "replaced_validation" in told.value.problems[0].valid


def test_where_nothing_was_replaced_there_is_no_such_split(finished: TrainResult):
    with pytest.raises(UsageError, match="no split 'replaced_validation'"):
        lorakit.evaluate(finished.run_dir, split="replaced_validation")
