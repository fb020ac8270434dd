"""Folds and ensembles: each row held out once, and the mean of several runs as one classifier."""

import csv
import json
import shutil
from unittest import mock

import numpy as np
import pytest
from support.runs import StopAt

import lorakit
from lorakit.errors import Interrupted, LorakitError, RecipeError, UsageError
from lorakit.tasks.task import Task
from lorakit.workflow import train as running
from lorakit.workflow.train_folds import warn_of_small_folds

OPTIONS = ("task.validation=null", "training.max_steps=2", "evaluation.baselines=[]")
TEXTS = ["a happy film", "a sad one", " ", "what a night of joy"]


@pytest.fixture(scope="module")
def folds(bench, tmp_path_factory):
    with mock.patch.object(running, "draw"):
        return lorakit.train_folds(bench.load(*OPTIONS), folds=2, run_dir=tmp_path_factory.mktemp("folds") / "all")


def test_each_row_is_predicted_by_the_fold_that_held_it_out(bench, folds):
    found = list(csv.DictReader(folds.predictions.open(newline="")))
    source = list(csv.DictReader((bench.data() / "train.csv").open(newline="")))
    assert [int(row["idx"]) for row in found] == list(range(len(source)))
    assert [row["text"] for row in found] == [row["sentence"] for row in source]
    assert [row["label"] for row in found] == [row["label"] for row in source]
    assert {row["fold"] for row in found} == {"1", "2"}
    for fold, (run, scores) in enumerate(zip(folds.runs, folds.scores, strict=True), start=1):
        own = [row for row in found if row["fold"] == str(fold)]
        assert np.mean([row["label"] == row["prediction"] for row in own]) == pytest.approx(scores["accuracy"])
        first = lorakit.predict(run, [own[0]["text"]])[0]
        assert first.label == own[0]["prediction"]


def test_scores_are_told_with_their_mean_and_deviation(folds):
    accuracies = [scores["accuracy"] for scores in folds.scores]
    assert folds.mean["accuracy"] == pytest.approx(np.mean(accuracies))
    assert folds.deviation["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))


def test_the_folds_together_are_a_classifier(folds):
    together = lorakit.load(folds.out)
    parts = [lorakit.load(run).predict_proba(TEXTS) for run in folds.runs]
    assert together.predict_proba(TEXTS) == pytest.approx(np.mean(parts, axis=0), nan_ok=True, abs=1e-6)
    answers = together.predict(TEXTS)
    assert answers[2].label == ""
    assert answers[0].label == max(answers[0].probabilities, key=answers[0].probabilities.get)


def test_an_ensemble_is_scored_on_a_file_alone(bench, folds):
    path = bench.data() / "validation.csv"
    scored = lorakit.evaluate(folds.out, file=path)
    rows = list(csv.DictReader(path.open(newline="")))
    answers = lorakit.predict(folds.out, [row["sentence"] for row in rows])
    right = np.mean([answer.label == row["label"] for answer, row in zip(answers, rows, strict=True)])
    assert scored.scores["accuracy"] == pytest.approx(right)
    with pytest.raises(UsageError, match="each other's validation rows"):
        lorakit.evaluate(folds.out)


def test_folds_go_on_where_they_were_stopped(bench, folds, tmp_path):
    with pytest.raises(Interrupted, match=r"fold 1 of 2 stopped after step 1 of 2(?s:.*)the same command goes on"):
        lorakit.train_folds(bench.load(*OPTIONS), folds=2, run_dir=tmp_path / "all", hooks=[StopAt(1)])
    with mock.patch.object(running, "draw"):
        again = lorakit.train_folds(bench.load(*OPTIONS), folds=2, run_dir=tmp_path / "all")
    assert again.scores == folds.scores
    shutil.rmtree(again.runs[1] / "checkpoints")
    (again.runs[1] / "summary.json").unlink()
    with pytest.raises(UsageError, match=r"another recipe: .*training\.max_steps"):
        lorakit.train_folds(bench.load(*OPTIONS, "training.max_steps=3"), folds=2, run_dir=tmp_path / "all")
    with mock.patch.object(running, "draw"):
        assert lorakit.train_folds(bench.load(*OPTIONS), folds=2, run_dir=tmp_path / "all").scores == folds.scores
    with mock.patch("lorakit.workflow.train_folds.train", side_effect=AssertionError):
        assert lorakit.train_folds(bench.load(*OPTIONS), folds=2, run_dir=tmp_path / "all").scores == folds.scores
    with pytest.raises(UsageError, match=r"another recipe: .*training\.max_steps"):
        lorakit.train_folds(bench.load(*OPTIONS, "training.max_steps=3"), folds=2, run_dir=tmp_path / "all")


def test_outputs_of_an_ensemble_are_matched_by_the_names_of_labels(bench, folds, tmp_path):
    names = list(lorakit.load(folds.runs[0]).labels.values())
    turned = bench.train(*OPTIONS, f"task.labels=[{', '.join(reversed(names))}]", run_dir=tmp_path / "turned").run_dir
    both = lorakit.ensemble([folds.runs[0], turned], out=tmp_path / "both")
    first, second = (lorakit.load(run).predict_proba(TEXTS[:2]) for run in both.runs)
    assert lorakit.load(both.out).predict_proba(TEXTS[:2]) == pytest.approx((first + second[:, ::-1]) / 2, abs=1e-6)
    path = bench.data() / "validation.csv"
    assert lorakit.evaluate(both.out, file=path).rows == len(list(csv.DictReader(path.open(newline=""))))


def test_an_ensemble_is_scored_on_another_task_by_the_names_of_labels(bench, tmp_path):
    rows = list(csv.DictReader((bench.data() / "train.csv").open(newline="")))
    names = {"happy": "positive"}
    with (tmp_path / "own.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(
            [("sentence", "label"), *((row["sentence"], names.get(row["label"], "negative")) for row in rows)]
        )
    # The other way round than sst2 has them.
    settings = [f"task.train={tmp_path / 'own.csv'}", "task.test=null", "task.labels=[positive, negative]"]
    runs = [
        bench.train(
            *OPTIONS, *settings, "training.max_steps=12", f"run.seed={seed}", run_dir=tmp_path / str(seed)
        ).run_dir
        for seed in (0, 1)
    ]
    out = lorakit.ensemble(runs, out=tmp_path / "both").out
    answers = lorakit.predict(out, [row["sentence"] for row in rows])
    right = np.mean([a.label == names.get(row["label"], "negative") for a, row in zip(answers, rows, strict=True)])
    scored = lorakit.evaluate(out, task="sst2", file=tmp_path / "own.csv")
    assert scored.scores["accuracy"] == pytest.approx(right)
    assert right != pytest.approx(1 - right)  # or the order would make no difference
    assert scored.learnt == "own"


def test_what_is_no_ensemble_is_told(bench, folds, tmp_path):
    with pytest.raises(UsageError, match="two runs or more"):
        lorakit.ensemble(folds.runs[:1], out=tmp_path / "one")
    with pytest.raises(UsageError, match="named twice"):
        lorakit.ensemble([folds.runs[0], folds.runs[0]], out=tmp_path / "one")
    with pytest.raises(UsageError, match="is a run itself"):
        lorakit.ensemble(folds.runs, out=folds.runs[1])
    with pytest.raises(UsageError, match="an ensemble of runs, and not one run"):
        lorakit.merge(folds.out)
    other = bench.train("training.max_steps=1", kind="number", run_dir=tmp_path / "number").run_dir
    with pytest.raises(UsageError, match="its labels are"):
        lorakit.ensemble([folds.runs[0], other], out=tmp_path / "two")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ensemble.json").write_text(json.dumps({"runs": "x"}))
    with pytest.raises(LorakitError, match=r"ensemble\.json"):
        lorakit.load(tmp_path / "broken")


def test_folds_are_of_own_data_and_in_a_folder_of_their_own(bench, folds, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with mock.patch("lorakit.workflow.train_folds.train", side_effect=AssertionError):
        with pytest.raises(UsageError, match="is a run itself"):
            lorakit.train_folds(bench.load(*OPTIONS), folds=2, run_dir=folds.runs[0])
        with pytest.raises(UsageError, match="exists already"):
            lorakit.train_folds(bench.load(*OPTIONS), folds=2, run_dir=tmp_path)
        with pytest.raises(UsageError, match="rotten_tomatoes has validation rows of its own"):
            lorakit.train_folds("demo", folds=2, run_dir=tmp_path / "demo")


def test_folds_that_lack_a_class_are_told(caplog):
    task, names = Task("custom", "", ("text",), "label", ("a", "b"), ("accuracy",)), ["idx", "label", "fold"]
    warn_of_small_folds(task, names, [("0", "a", "1"), ("1", "b", "1"), ("2", "a", "2"), ("3", "b", "2")], 2)
    assert not caplog.text
    warn_of_small_folds(task, names, [("0", "a", "1"), ("1", "b", "1"), ("2", "a", "2"), ("3", "a", "2")], 2)
    assert "1 of 2 folds hold out no row of some class" in caplog.text


def test_texts_that_were_trained_on_are_told(bench, folds, caplog):
    source = bench.data() / "train.csv"
    lorakit.evaluate(folds.out, file=source)
    rows = len(list(csv.DictReader(source.open(newline=""))))
    assert f"{rows} of the {rows} texts of {source} are among its training texts" in caplog.text
    caplog.clear()
    lorakit.evaluate(folds.runs[0], file=source)
    assert f" of the {rows} texts of {source} are among its training texts" in caplog.text
    assert f"{rows} of the {rows} texts" not in caplog.text


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("task.fold=1",), "task.fold"),
        (("task.folds=2",), "task.folds"),
        (("task.folds=2", "task.fold=4"), "task.fold"),
        (("task.folds=2", "task.fold=1", "task.validation_fraction=0.3"), "task.validation_fraction"),
        (("task.folds=2", "task.fold=1", "task.validation=other.csv"), "task.folds"),
    ],
)
def test_a_fold_is_one_of_several(bench, options, key):
    with pytest.raises(RecipeError) as caught:
        bench.load("task.validation=null", *options)
    assert [problem.key for problem in caught.value.problems] == [key]
