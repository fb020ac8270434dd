"""Baselines and warnings of whole runs: what a run says of itself, and that measuring it changes nothing."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from support.every_family import tiny_classifier
from support.runs import BASELINES, SEARCH, Bench, edited_json, records, without
from transformers import AutoModel, AutoTokenizer

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.errors import RecipeError, RunError
from lorakit.tasks.batching import encode
from lorakit.workflow.frozen_features import read_features
from lorakit.workflow.parts import Parts
from lorakit.workflow.setup import assemble

TOLD = ("baselines", "warnings")


@pytest.mark.parametrize("settings", [(), SEARCH])
def test_a_run_is_the_same_with_and_without_baselines(bench: Bench, settings: tuple[str, ...]):
    """All weights, all lines of metrics and timeline, byte by byte."""
    few = (*settings, "training.max_steps=4", "adapter.dropout=0.1")
    bare = bench.train(*few, "evaluation.baselines=[]")
    told = bench.train(*few, "evaluation.baselines=[majority,tfidf,frozen]")
    assert [found.name for found in told.baselines] == ["majority", "tfidf", "frozen"]
    assert bare.baselines == []
    ours, theirs = records(told.run_dir), records(bare.run_dir)
    assert without(ours.pop("summary"), TOLD) == without(theirs.pop("summary"), TOLD)
    assert ours == theirs


@pytest.mark.parametrize("family", ["t5", "funnel"])  # a base model that wants its decoder's input; one that pools
def test_a_model_without_a_state_for_each_token_has_no_features(bench: Bench, tmp_path: Path, family: str):
    folder = tiny_classifier(family, tmp_path / family)
    with pytest.raises(RecipeError, match=f"a {family} model has no features of single tokens") as caught:
        bench.train(f"model.name={folder}", "adapter.targets=[all]", "evaluation.baselines=[frozen]")
    assert caught.value.problems[0].key == "evaluation.baselines"


def test_the_summary_has_the_majoritys_share(bench: Bench):
    run = bench.train(BASELINES, "training.max_steps=1")
    labels = {
        name: [row["label"] for row in csv.DictReader((bench.data() / f"{name}.csv").open())]
        for name in ("train", "validation")
    }
    most = Counter(labels["train"]).most_common(1)[0][0]
    share = accuracy_score(labels["validation"], [most] * len(labels["validation"]))
    found = {baseline.name: baseline for baseline in run.baselines}
    assert set(found) == {"majority", "tfidf"}
    assert found["majority"].scores["accuracy"] == pytest.approx(share)
    assert found["majority"].title == f"always {most}"
    saved = read_json(run.run_dir / "summary.json")
    assert saved["baselines"][0]["scores"] == found["majority"].scores


@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta_v2"])
def test_features_are_means_of_last_hidden_states(bench: Bench, family: str):
    parts: Parts = assemble(bench.load(family=family))
    rows = parts.data.splits["validation"].select(range(5))
    found = read_features(parts, encode(rows, parts.backbone.tokenizer, parts.max_length), ("mean",))["mean"]
    model = AutoModel.from_pretrained(bench.backbone(family)).eval()
    tokenizer = AutoTokenizer.from_pretrained(bench.backbone(family))
    with torch.no_grad():
        expected = [
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy() for text in rows["text"]
        ]
    assert np.allclose(found, np.stack(expected), atol=1e-5)


@pytest.mark.usefixtures("unrendered")
def test_a_run_that_answers_one_class_says_so(bench: Bench, tmp_path: Path):
    run = bench.train("training.lr=1e-9", "training.max_steps=2", "run.log_every=1")
    table = tmp_path / "predictions.csv"
    lorakit.evaluate(run.run_dir, predictions=table)
    answers = {row["prediction"] for row in csv.DictReader(table.open())}
    assert run.collapsed is (len(answers) == 1)
    assert any(text.startswith("it answers '") for text in run.warnings) is run.collapsed
    assert read_json(run.run_dir / "summary.json")["warnings"] == run.warnings != []
    told = lorakit.report(run.run_dir)
    result = told.summary[0]
    for text in run.warnings:
        assert f"Warning: {text}." in result.sentences


@pytest.mark.usefixtures("unrendered")
def test_the_report_shows_classes_as_eval_does(bench: Bench):
    run = bench.train("training.max_steps=2")
    diagnosis = lorakit.evaluate(run.run_dir).diagnosis
    assert diagnosis is not None
    assert run.confusion == diagnosis.confusion
    told = lorakit.report(run.run_dir)
    assert "confusion.png" in [path.name for path in told.figures]
    page = told.page.read_text()
    for row in diagnosis.classes:
        cells = (f"{row.precision:.4f}", f"{row.recall:.4f}", f"{row.f1:.4f}", str(row.support))
        assert f"<th scope='row'>{row.label}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) in page


@pytest.mark.parametrize("spoilt", [[[1, 2]], [[1, -2], [0, 1]], "all", [[1.5, 0], [0, 1]]])
def test_a_broken_confusion_is_one_error_that_names_the_file(copied: Path, spoilt: object):
    with edited_json(copied / "summary.json") as summary:
        summary["confusion"] = spoilt
    with pytest.raises(RunError, match=r"confusion|is not a run's summary"):
        lorakit.report(copied)


def test_numbers_to_predict_have_no_baselines(bench: Bench):
    run = bench.train("training.max_steps=2", kind="number")
    assert (run.baselines, run.collapsed, run.confusion) == ([], False, None)
