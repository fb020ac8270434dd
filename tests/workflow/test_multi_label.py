"""A run of several labels a row, from its training to what is made of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score
from support.runs import BASELINES, SEARCH, VALIDATION_ROWS, Bench, edited_json, read_json
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import lorakit
from lorakit.errors import RunError, UsageError
from lorakit.tasks.label_diagnosis import LabelDiagnosis
from lorakit.workflow.train import TrainResult

LABELS = ("happy", "long", "odd")


@pytest.fixture(scope="module")
def run(bench: Bench) -> TrainResult:
    return bench.train(BASELINES, "training.epochs=6", "training.lr=2e-2", kind="several", name="several")


@pytest.fixture(scope="module")
def merged(run: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lorakit.merge(run.run_dir, out=tmp_path_factory.mktemp("merged") / "model").out


@pytest.fixture(scope="module")
def texts(bench: Bench) -> pd.DataFrame:
    return pd.read_csv(bench.data() / "validation.csv", keep_default_na=False)


def test_it_learns_and_says_what_it_learnt(run: TrainResult):
    task = read_json(run.run_dir / "task.json")
    assert (tuple(task["labels"]), task["multi_label"], task["label_separator"]) == (LABELS, True, ";")
    assert list(run.last) == ["micro_f1", "macro_f1", "subset_accuracy"]
    assert run.metric == "micro_f1"
    assert run.last["micro_f1"] > 0.6
    assert run.confusion is None
    assert [baseline.name for baseline in run.baselines if baseline.scores] == ["majority", "tfidf"]
    classes = read_json(run.run_dir / "data.json")["splits"]["validation"]["classes"]
    assert set(classes) == set(LABELS)


def test_its_scores_are_scikit_learns_on_its_own_predictions(run: TrainResult, texts: pd.DataFrame, tmp_path: Path):
    found = lorakit.evaluate(run.run_dir, predictions=tmp_path / "p.csv")
    written = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    chances = written[[f"probability_{name}" for name in LABELS]].to_numpy()
    truth = np.array([[name in moods for name in LABELS] for moods in texts["moods"]])
    assert found.scores["micro_f1"] == pytest.approx(f1_score(truth, chances >= 0.5, average="micro"))
    assert [row.split(";") if row else [] for row in written["prediction"]] == [
        [name for name, chance in zip(LABELS, row, strict=True) if chance >= 0.5] for row in chances
    ]
    assert found.interval is not None
    assert found.interval[0] <= found.scores["micro_f1"] <= found.interval[1]
    assert isinstance(found.diagnosis, LabelDiagnosis)
    assert [row.support for row in found.diagnosis.labels] == truth.sum(0).tolist()


def test_a_labelled_file_may_have_other_separators_and_lists(run: TrainResult, texts: pd.DataFrame, tmp_path: Path):
    lists = texts.assign(moods=[[m for m in moods.split("; ") if m] for moods in texts["moods"]])
    lists.to_json(tmp_path / "v.jsonl", orient="records", lines=True)
    assert lorakit.evaluate(run.run_dir, file=tmp_path / "v.jsonl").scores == run.last


def test_predictions_have_all_labels_from_one_half(run: TrainResult, texts: pd.DataFrame):
    classifier = lorakit.load(run.run_dir)
    asked = [*texts["sentence"][:6], " "]
    found, chances = classifier.predict(asked), classifier.predict_proba(asked)
    for prediction, row in zip(found[:-1], chances, strict=False):
        assert prediction.probabilities == dict(zip(LABELS, row.tolist(), strict=True))
        assert prediction.labels == tuple(name for name, chance in zip(LABELS, row, strict=True) if chance >= 0.5)
        assert (prediction.label, prediction.probability) == (";".join(prediction.labels), None)
    assert (found[-1].label, found[-1].labels, found[-1].probabilities) == ("", (), None)
    assert np.isnan(chances[-1]).all()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_of_answers_are_read_again_as_labels(run: TrainResult, texts: pd.DataFrame, tmp_path: Path, suffix: str):
    texts[["sentence"]].to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / f"out{suffix}"
    told = lorakit.predict_file(run.run_dir, tmp_path / "new.csv", out=out)
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".jsonl": lambda path: pd.read_json(path, lines=True)}
    written = read[suffix](out)
    assert list(written) == ["sentence", "label", *(f"p({name})" for name in LABELS)]
    expected = [list(found.labels) for found in lorakit.predict(run.run_dir, texts["sentence"])]
    cells = written["label"].fillna("") if suffix == ".csv" else written["label"]
    assert (
        [cell.split(";") if cell else [] for cell in cells] == expected
        if suffix == ".csv"
        else [list(cell) for cell in cells] == expected
    )
    assert (told.rows, told.blank, told.without) == (VALIDATION_ROWS, 0, sum(not row for row in expected))
    assert told.labels == {name: count for name in LABELS if (count := sum(name in row for row in expected))}


def test_each_label_may_have_its_own_threshold(run: TrainResult, texts: pd.DataFrame):
    asked = list(texts["sentence"][:12])
    chances = [found.probabilities for found in lorakit.predict(run.run_dir, asked)]
    found = lorakit.load(run.run_dir).predict(asked, thresholds={"happy": 0.2, "odd": 0.9})
    least = {"happy": 0.2, "long": 0.5, "odd": 0.9}
    assert [each.labels for each in found] == [
        tuple(name for name, chance in row.items() if chance >= least[name]) for row in chances if row is not None
    ]


def test_there_is_nothing_to_abstain_below(run: TrainResult, texts: pd.DataFrame, tmp_path: Path):
    texts.to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(UsageError, match="no one probability to abstain below"):
        lorakit.predict_file(run.run_dir, tmp_path / "new.csv", abstain=0.5)


def test_a_merged_folder_means_the_same_to_plain_transformers(run: TrainResult, merged: Path, texts: pd.DataFrame):
    assert json.loads((merged / "config.json").read_text())["problem_type"] == "multi_label_classification"
    asked = list(texts["sentence"][:5])
    plain = pipeline("text-classification", model=str(merged), tokenizer=str(merged), top_k=None, device="cpu")
    ours = lorakit.predict(run.run_dir, asked)
    for found, theirs in zip(ours, plain(asked, truncation=True, max_length=32), strict=True):
        assert {each["label"]: each["score"] for each in theirs} == pytest.approx(found.probabilities, abs=1e-5)
    again = lorakit.load(merged)
    assert again.multi_label
    assert [found.labels for found in again.predict(asked)] == [found.labels for found in ours]


def test_the_loss_is_that_of_transformers(merged: Path, bench: Bench, tmp_path: Path):
    """Loaded as any checkpoint is, the model's own loss is the mean over rows and labels that a training here takes."""
    training = bench.prepare(tmp_path, f"model.name={merged}", "adapter.dropout=0", kind="several")
    batch = training.loader.sample(1, torch.Generator())[0]
    ours = training.objective.mean(training.model, batch)
    model = AutoModelForSequenceClassification.from_pretrained(merged).eval()
    theirs = model(**{**batch, "labels": batch["labels"].float()}).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert AutoTokenizer.from_pretrained(merged)


def test_a_new_head_starts_with_the_log_odds_of_its_labels(bench: Bench, tmp_path: Path):
    training = bench.prepare(tmp_path, kind="several", name="fresh-head")
    moods = pd.read_csv(bench.data() / "train.csv", keep_default_na=False)["moods"]
    shares = [np.mean([name in cell for cell in moods]) for name in LABELS]
    bias = training.adapted.model.classifier.bias.detach()
    assert bias.sigmoid().tolist() == pytest.approx(shares, abs=1e-6)


def test_an_exported_adapter_says_how_it_is_loaded(run: TrainResult, tmp_path: Path):
    exported = lorakit.export(run.run_dir, out=tmp_path / "peft")
    assert 'problem_type="multi_label_classification"' in exported.load_line
    assert exported.flips == 0


@pytest.mark.usefixtures("unrendered")
def test_its_page_has_the_scores_of_each_label(run: TrainResult):
    page = lorakit.report(run.run_dir).page.read_text()
    told = " ".join(re.sub("<[^>]+>", " ", page).split())
    assert "Scores by label" in told
    found = lorakit.evaluate(run.run_dir).diagnosis
    assert isinstance(found, LabelDiagnosis)
    for row in found.labels:
        assert f"{row.label} {row.precision:.4f} {row.recall:.4f} {row.f1:.4f} {row.support}" in told


@pytest.mark.parametrize("spoilt", [[[[1, 2], [3, 4]]], [[[1, 2]]] * 3, [1, 2, 3], "x"])
def test_a_broken_table_of_labels_is_one_error(run: TrainResult, tmp_path: Path, spoilt: object):
    copied = Path(shutil.copytree(run.run_dir, tmp_path / "copied"))
    with edited_json(copied / "summary.json") as summary:
        summary["by_label"] = spoilt
    with pytest.raises(RunError, match=r"by_label|confusion|is not a run's summary"):
        lorakit.report(copied)


@pytest.mark.parametrize(
    "overrides",
    [
        ("search.proxy=alpha", *SEARCH),
        ("adapter.updates=[hidden_key]",),
        ("training.class_weights=balanced", "training.label_smoothing=0.1"),
        ("training.loss=focal", "evaluation.baselines=[frozen]"),
        ("adapter.init=lora_ga",),
    ],
)
def test_what_looks_at_labels_knows_several(bench: Bench, overrides: tuple[str, ...]):
    run = bench.train("training.max_steps=2", *overrides, kind="several", name="looks")
    assert run.steps == 2


def test_two_runs_are_combined(run: TrainResult, bench: Bench, tmp_path: Path):
    other = bench.train("training.max_steps=2", "run.seed=1", kind="several", name="other")
    for method in ("fisher", "lorahub"):  # those that look at labels
        out = tmp_path / method
        lorakit.combine([run.run_dir, other.run_dir], method=method, out=out)
        assert lorakit.load(out).multi_label
